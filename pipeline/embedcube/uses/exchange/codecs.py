"""Vectors made smaller: fewer numbers (PCA), or fewer bits for each. All are plain arrays, so that any Zarr reads them.

    PCA and 8 bits     value = mean + (embedding * step) @ basis
    8 or 4 bits        value = mean + embedding * scale       (4 bits: -7 ... 7, in bytes; zstd packs them)
    1 bit              value = mean + (+-1) * scale           (bits packed along the features, first one highest)

A mean is subtracted first, always: without it 1 bit of vectors that share a mean direction says nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.errors import RequestError

Floats = NDArray[np.float32]
Bits = Literal[8, 4, 1]

_LEVELS: dict[int, int] = {8: 127, 4: 7}
_RANGES = (0.35, 0.5, 0.7, 1.0)
"""ranges of a component that are tried, as shares of its largest number in the sample; what lies beyond is cut off"""

_ROWS = 4096
"""vectors that are multiplied at once: always as many, so that sums are equal"""


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """What is asked for."""

    features: int | None = None
    """components of a PCA; None for all features as they are"""
    bits: Bits = 8

    def __str__(self) -> str:
        return f"PCA-{self.features} + int8" if self.features else f"{self.bits} bit{'s' if self.bits > 1 else ''}"

    @property
    def value(self) -> str:
        """What a reader computes, in words of NumPy."""
        if self.features:
            return "value = mean + (embedding * step) @ basis"
        if self.bits == 1:
            return "value = mean + (2 * numpy.unpackbits(embedding, axis=-1, count=features) - 1) * scale[..., None]"
        return "value = mean + embedding * scale[..., None]"

    def check(self, features: int) -> None:
        """Refuse what vectors of so many features cannot be made to; a RequestError says what they can."""
        if self.features and self.bits != 8:
            raise RequestError("--features goes with --bits 8; fewer bits of components lose their neighbours")
        if self.features and not 1 <= self.features < features:
            raise RequestError(
                f"--features {self.features}: vectors have {features} features; choose 1 to {features - 1}"
            )

    def vector_bytes(self, features: int) -> int:
        """Bytes of a vector of so many features, with its scale, not compressed."""
        return self.features or (features if self.bits > 1 else -(-features // 8)) + 4


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A way to make vectors smaller, fitted on a sample of them."""

    asked: Smaller
    tables: Mapping[str, Floats]
    """`mean` (feature); of a PCA also `basis` (component, feature) and `step` (component)"""

    def encode(self, vectors: Floats) -> dict[str, NDArray[Any]]:
        """`embedding` (row, number) of finite vectors (row, feature), and `scale` (row) but for a PCA."""
        centred = vectors - self.tables["mean"]
        if self.asked.features:
            along = _times(centred, self.tables["basis"].T) / self.tables["step"]
            return {"embedding": np.rint(np.clip(along, -127, 127)).astype(np.int8)}
        if self.asked.bits == 1:
            scale = np.abs(centred).mean(axis=-1)
            return {"embedding": np.packbits(centred >= 0, axis=-1), "scale": scale}
        scale = np.abs(centred).max(axis=-1) / np.float32(_LEVELS[self.asked.bits])
        steps = np.divide(centred, scale[:, None], out=np.zeros_like(centred), where=scale[:, None] > 0)
        return {"embedding": np.rint(steps).astype(np.int8), "scale": scale}

    def decode(self, stored: Mapping[str, NDArray[Any]]) -> Floats:
        """Vectors (..., feature) of what `encode` has made; NaN where the scale is."""
        embedding, mean = stored["embedding"], self.tables["mean"]
        if self.asked.features:
            along = embedding.astype(np.float32) * self.tables["step"]
            flat = _times(along.reshape(-1, along.shape[-1]), self.tables["basis"]) + mean
            return np.asarray(flat.reshape(*embedding.shape[:-1], len(mean)), np.float32)
        if self.asked.bits == 1:
            signs = np.unpackbits(embedding, axis=-1, count=len(mean)).astype(np.float32) * 2 - 1
            return np.asarray(signs * stored["scale"][..., None] + mean, np.float32)
        return np.asarray(embedding.astype(np.float32) * stored["scale"][..., None] + mean, np.float32)


def fit(asked: Smaller, sample: Floats) -> Fitted:
    """Fit the mean, and the components of a PCA, on a sample of vectors (row, feature).

    Raises:
        RequestError: there are fewer features than components, or fewer vectors.
    """
    asked.check(sample.shape[1])
    if len(sample) < 2 * (asked.features or 1):
        raise RequestError(f"{len(sample)} vectors are too few to fit {asked} on")
    mean = sample.mean(axis=0, dtype=np.float64)
    tables = {"mean": mean.astype(np.float32)}
    if asked.features:
        centred = (sample - mean).astype(np.float64)
        directions = np.linalg.eigh(centred.T @ centred)[1].T[::-1][: asked.features]
        largest = np.abs(directions).argmax(axis=1)
        directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
        basis = directions.astype(np.float32)
        tables |= {"basis": basis, "step": _steps(_times(sample - tables["mean"], basis.T))}
    return Fitted(asked=asked, tables=tables)


def _steps(along: Floats) -> Floats:
    """Step (component) of int8 with the least mean square error: few numbers far out are cut off, the rest is finer."""
    largest = np.maximum(np.abs(along).max(axis=0), np.float32(1e-30))
    steps = np.stack([largest * np.float32(share / 127) for share in _RANGES])
    errors = [((along - np.rint(np.clip(along / step, -127, 127)) * step) ** 2).mean(axis=0) for step in steps]
    return np.asarray(steps[np.argmin(errors, axis=0), np.arange(along.shape[1])], np.float32)


def _times(rows: Floats, matrix: Floats) -> Floats:
    """The product, of blocks of one shape: a row gives the same numbers whatever rows are beside it."""
    found = np.empty((len(rows), matrix.shape[1]), np.float32)
    block = np.zeros((_ROWS, rows.shape[1]), np.float32)
    for first in range(0, len(rows), _ROWS):
        own = rows[first : first + _ROWS]
        block[: len(own)] = own
        found[first : first + len(own)] = (block @ matrix)[: len(own)]
    return found
