"""What smaller vectors lose: bytes, centred cosine, the neighbours of `find`, the score of a decoder.

A cosine of 0.99 may go with half of the neighbours lost, as vectors of one model share a mean: so all are measured, on
the cube at hand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from embedcube.cube.basis import sampled
from embedcube.cube.reader import Cube
from embedcube.errors import WorkError
from embedcube.uses.exchange.codecs import Fitted, Floats, Smaller, fit

CELLS = 20_000
"""cells of a sample"""

QUERIES = 400
HITS = 10

_SEED = 5
_RECALL_ASKED = 0.5
"""recall@10 below which a warning is printed"""

Coded = tuple[Floats, float]
"""Vectors as they come back, and the bytes of each."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What one way of writing vectors costs and loses, on a sample of a layer."""

    codec: str
    bytes_per_vector: float
    """with its scale, compressed; tables that are stored once are left out"""
    times_smaller: float
    """than float32, not compressed"""
    centred_cosine: float
    """mean, after the mean vector was subtracted"""
    least_cosine: float
    """first percentile of the same"""
    recall_at_10: float
    """share of the ten nearest cells, by cosine as in `find`, that are still among the ten nearest"""
    decoder_change: float | None = None
    """of the score on held-out blocks; None without labels"""
    warning: str = ""


def sample_of(cube: Cube, layer: str, cells: int = CELLS) -> Floats:
    """Valid vectors (cell, feature) of a layer from all zones and windows, always the same.

    Raises:
        WorkError: the layer has fewer than 100.
    """
    parts: list[Floats] = []
    for part in sampled(cube, layer, cells):
        parts.append(part)
        if sum(map(len, parts)) >= cells:
            break
    found = np.concatenate(parts)[:cells] if parts else np.zeros((0, 1), np.float32)
    if len(found) < 100:
        raise WorkError(f"layer {layer} has {len(found)} vectors in the sample; a measurement needs at least 100")
    return found


def losses(vectors: Floats, change: Callable[[Callable[[Floats], Floats]], float] | None = None) -> list[Loss]:
    """Measure the codecs on some vectors (cell, feature): each fitted on one half, and measured on the other.

    `change` gives the change of a decoder's score where its features go through a function.
    """
    return [loss_of(name, vectors, code, change) for name, code in codecs(vectors.shape[1], len(vectors))]


def measure(sample: Floats, asked: Smaller) -> Loss:
    """What one way to make vectors smaller loses: fitted on one half of the sample, measured on the other."""
    return loss_of(str(asked), sample, _smaller(asked))


def loss_of(
    name: str, vectors: Floats, code: Callable[[Floats, Floats], Coded],
    change: Callable[[Callable[[Floats], Floats]], float] | None = None,
) -> Loss:  # fmt: skip
    """Measure one codec, a function of (sample to fit on, vectors): fitted on one half, measured on the other."""
    known, vectors = halves(vectors)
    back, size = code(known, vectors)
    mean = vectors.mean(axis=0, dtype=np.float64)
    cosine = cosines(vectors - mean, back - mean)
    recall = recall_at_10(vectors, back)
    warning = ""
    if "not centred" in name:
        warning = "never use it: without the mean subtracted the signs of most features are the same everywhere"
    elif recall < _RECALL_ASKED:
        warning = f"{1 - recall:.0%} of the nearest cells are others: not for find and change"
    return Loss(
        codec=name, bytes_per_vector=round(size, 1), times_smaller=round(4 * vectors.shape[1] / size, 1),
        centred_cosine=round(float(cosine.mean()), 5), least_cosine=round(float(np.percentile(cosine, 1)), 5),
        recall_at_10=round(recall, 4), warning=warning,
        decoder_change=None if change is None else round(change(lambda rows: code(known, rows)[0]), 4),
    )  # fmt: skip


def halves(vectors: Floats) -> tuple[Floats, Floats]:
    """Two halves of some vectors, drawn at random, always the same; each in the order that it had."""
    first = np.zeros(len(vectors), bool)
    first[np.random.default_rng(_SEED).permutation(len(vectors))[: len(vectors) // 2]] = True
    return vectors[first], vectors[~first]


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine (row) of each row with the same row of another; 0 where one of them is zero."""
    product = np.einsum("nd,nd->n", one, other, dtype=np.float64)
    sizes = np.linalg.norm(one, axis=1).astype(np.float64) * np.linalg.norm(other, axis=1)
    return np.asarray(np.divide(product, sizes, out=np.zeros(len(product)), where=sizes > 0))


def recall_at_10(vectors: Floats, back: Floats, queries: int = QUERIES) -> float:
    """Mean share of the ten nearest other cells of a query that stay among the ten nearest."""
    chosen = np.random.default_rng(_SEED).permutation(len(vectors))[:queries]
    true, found = _nearest(vectors, chosen), _nearest(back, chosen)
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(true, found, strict=True)]))


def _nearest(vectors: Floats, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, size, out=np.zeros_like(vectors), where=size > 0)
    cosine = unit[chosen] @ unit.T
    cosine[np.arange(len(chosen)), chosen] = -2
    return np.argpartition(-cosine, HITS, axis=1)[:, :HITS]


def codecs(features: int, sample: int) -> Iterator[tuple[str, Callable[[Floats, Floats], Coded]]]:
    """Names and functions of the codecs for vectors of so many features; those that half of the sample can fit."""
    yield "float32", lambda _, rows: (rows, _zstd(rows))
    yield "float16", lambda _, rows: (rows.astype(np.float16).astype(np.float32), _zstd(rows.astype(np.float16)))
    # the arithmetic of the store (kernel/quantise.py)
    yield "int8", _smaller(Smaller(bits=8), _not_centred)
    yield "int8, mean subtracted", _smaller(Smaller(bits=8))
    for count in (64, 32, 16, 8):
        if count < features and 4 * count <= sample:
            asked = Smaller(features=count)
            yield str(asked), _smaller(asked)
    yield "4 bits, centred", _smaller(Smaller(bits=4))
    yield "1 bit, centred", _smaller(Smaller(bits=1))
    yield "1 bit, not centred", _smaller(Smaller(bits=1), _not_centred)


def _not_centred(asked: Smaller, sample: Floats) -> Fitted:
    return Fitted(asked=asked, tables={"mean": np.zeros(sample.shape[1], np.float32)})


def _smaller(asked: Smaller, fitted_on: Callable[[Smaller, Floats], Fitted] = fit) -> Callable[[Floats, Floats], Coded]:
    def code(sample: Floats, rows: Floats) -> Coded:
        fitted = fitted_on(asked, sample)
        stored = fitted.encode(rows)
        return fitted.decode(stored), sum(_zstd(array) for array in stored.values())

    return code


def _zstd(array: NDArray[Any]) -> float:
    """Bytes of a row, compressed as in the store, in blocks as large as its chunks."""
    block = max(1, (1 << 19) // max(1, array[0].nbytes))
    pieces = (np.ascontiguousarray(array[first : first + block]) for first in range(0, len(array), block))
    return float(sum(len(Zstd(level=1).encode(piece)) for piece in pieces) / len(array))
