"""Encoding and decoding: the error bounds hold for all magnitudes of float32."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from numpy.typing import NDArray

from embedcube.cube.encoding import STATUS_MEANINGS, VALID, Encoding, bound_of_numbers, decode, fill_value, int8_bound

steady = settings(deadline=None, max_examples=60)

Vectors = NDArray[np.float32]

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
SCALE_IS_NORMAL = 127 * 1.2e-38
"""if the largest number of a vector is at least this, its scale is a normal float32, with all digits"""

ENCODINGS: tuple[Encoding, ...] = ("int8", "float16", "float32")


@dataclass(frozen=True)
class Encoded:
    """Quantised vectors, as NumPy arrays."""

    stored: NDArray[Any]
    scale: NDArray[np.float32] | None
    held: NDArray[np.bool_]


def encode(vectors: Vectors, encoding: Encoding, offset: Vectors | None = None) -> Encoded:
    import torch

    from embedcube.kernel.quantise import quantise

    quantised = quantise(torch.from_numpy(vectors), encoding, None if offset is None else torch.from_numpy(offset))
    scale = None if quantised.scale is None else quantised.scale.numpy()
    return Encoded(quantised.stored.numpy(), scale, quantised.held.numpy())


@st.composite
def vectors_within(draw: st.DrawFn, low: float, high: float) -> Vectors:
    """Vectors (n, D) in float32; the largest number of each is in [low, high], the others are smaller."""
    n, d = draw(st.integers(1, 4)), draw(st.integers(1, 33))
    share = st.floats(-1, 1, width=32) | st.sampled_from([0.0, -0.0, 1.0, 0.5 / 127, 126.5 / 127, -1e-30])
    shares = draw(hn.arrays(np.float64, (n, d), elements=share))
    shares[np.arange(n), draw(st.integers(0, d - 1))] = draw(st.sampled_from([-1.0, 1.0]))
    # magnitudes of every size, not only those near the upper end
    power = st.floats(math.log(low), math.log(high)).map(math.exp)
    most = draw(st.lists(power | st.floats(low, high), min_size=n, max_size=n))
    return np.asarray(shares * np.clip(most, low, high)[:, None], dtype=np.float32)


def naive_int8(vector: Vectors) -> tuple[list[float], float]:
    """x / s before rounding, and s = max|x| / 127, in float64: absmax quantisation written once more, plainly."""
    largest = max(abs(float(x)) for x in vector)
    step = largest / 127
    return [float(x) / step if step else 0.0 for x in vector], step


def error_of(vectors: Vectors, encoding: Encoding = "int8") -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """Difference of each decoded number from the original, and the scales."""
    encoded = encode(vectors, encoding)
    restored = decode(encoded.stored, encoded.scale)
    assert restored.dtype == np.float32
    assert restored.shape == vectors.shape
    return np.abs(restored.astype(np.float64) - vectors), encoded.scale


@steady
@given(vectors_within(1e-30, 1e30), st.integers(0, 2**32), st.floats(-20, 20))
def test_a_centred_layer_loses_no_more_than_its_bound(vectors: Vectors, seed: int, power: float) -> None:
    """With offsets far below and far above the numbers, against float64."""
    largest = float(np.abs(vectors).max())
    normal = np.random.default_rng(seed).normal(size=vectors.shape[1])
    offset = np.clip(normal * largest * 10**power, -1e37, 1e37).astype(np.float32)
    encoded = encode(vectors, "int8", offset)
    scale = encoded.scale
    assert scale is not None
    assert encoded.held.all()
    exact = np.abs(vectors.astype(np.float64) - offset.astype(np.float64)).max(axis=-1) / 127
    np.testing.assert_allclose(scale, exact, rtol=1e-6, atol=SMALLEST)
    restored = decode(encoded.stored, scale, offset)
    assert restored.dtype == np.float32
    error = np.abs(restored.astype(np.float64) - vectors)
    bound = bound_of_numbers(scale, offset)
    assert (error <= bound).all()
    assert (bound <= 0.5001 * scale[:, None].astype(np.float64) + 1.2e-7 * np.abs(offset) + 127 * SMALLEST).all()
    without = decode(encoded.stored, scale)
    assert (np.abs(without.astype(np.float64) + offset - vectors) <= bound).all()


@steady
@given(vectors_within(SCALE_IS_NORMAL, 3.4e38))
def test_int8_loses_no_more_than_its_bound(vectors: Vectors) -> None:
    error, scale = error_of(vectors)
    assert scale is not None
    assert scale.dtype == np.float32
    assert (error <= int8_bound(scale)[:, None]).all()


def test_the_bound_is_half_a_step_and_hardly_more() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 256)).astype(np.float32) * 10 ** rng.uniform(-30, 30, (2000, 1))
    error, scale = error_of(vectors.astype(np.float32))
    assert scale is not None
    worst = float((error / scale[:, None]).max())
    assert 0.4999 < worst < 0.5001
    assert (int8_bound(scale) <= 0.5001 * scale).all()


@steady
@given(vectors_within(SMALLEST, SCALE_IS_NORMAL))
def test_the_tiniest_numbers_lose_no_more_than_float32_cannot_hold(vectors: Vectors) -> None:
    error, scale = error_of(vectors)
    assert scale is not None
    assert np.isfinite(scale).all()
    # a scale that is itself rounded to a few multiples of the smallest number there is
    assert (error <= int8_bound(scale)[:, None] + 127 * SMALLEST).all()


@steady
@given(vectors_within(SCALE_IS_NORMAL, 3.4e38))
def test_int8_is_per_vector_absmax(vectors: Vectors) -> None:
    encoded = encode(vectors, "int8")
    assert encoded.stored.dtype == np.int8
    assert encoded.scale is not None
    for vector, stored, scale in zip(vectors, encoded.stored, encoded.scale, strict=True):
        steps, step = naive_int8(vector)
        assert float(scale) == pytest.approx(step, rel=1e-7)
        for q, exact in zip(stored.tolist(), steps, strict=True):
            # float32 may see a tie, or the other side of one, where float64 does not
            assert abs(q - exact) <= 0.5 + 127 * 2**-23
        assert abs(int(stored[np.argmax(np.abs(vector))])) == 127


def test_ties_go_to_the_even_number() -> None:
    vectors = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5]], dtype=np.float32)
    assert encode(vectors, "int8").stored.tolist() == [[127, 0, 2, 2, 0, -2, 126]]


@steady
@given(vectors_within(SCALE_IS_NORMAL, 3e38))
def test_what_was_decoded_encodes_to_the_same_numbers(vectors: Vectors) -> None:
    encoded = encode(vectors, "int8")
    again = encode(decode(encoded.stored, encoded.scale), "int8")
    np.testing.assert_array_equal(again.stored, encoded.stored)


@steady
@given(vectors_within(1e-15, 1e15))
def test_the_norm_survives(vectors: Vectors) -> None:
    encoded = encode(vectors, "int8")
    assert encoded.scale is not None
    before = np.linalg.norm(vectors.astype(np.float64), axis=1)
    after = np.linalg.norm(decode(encoded.stored, encoded.scale).astype(np.float64), axis=1)
    assert (np.abs(after - before) <= int8_bound(encoded.scale) * np.sqrt(vectors.shape[1])).all()


def test_directions_survive() -> None:
    vectors = np.random.default_rng(1).standard_normal((500, 768)).astype(np.float32)
    encoded = encode(vectors, "int8")
    restored = decode(encoded.stored, encoded.scale).astype(np.float64)
    cosine = (restored * vectors).sum(axis=1) / np.linalg.norm(restored, axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosine.min() > 0.9999


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_vector_of_zeros_stays_one(encoding: Encoding) -> None:
    vectors = np.zeros((2, 5), dtype=np.float32)
    vectors[1, 0] = -3
    encoded = encode(vectors, encoding)
    restored = decode(encoded.stored, encoded.scale)
    np.testing.assert_array_equal(restored[0], 0)
    assert restored[1, 0] == -3
    assert (encoded.scale is not None) == (encoding == "int8")
    assert encoded.scale is None or encoded.scale[0] == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_missing_is_not_zero(encoding: Encoding) -> None:
    stored = np.full((2, 3), fill_value(encoding), dtype=encoding)
    scale = np.full(2, np.nan, dtype=np.float32) if encoding == "int8" else None
    assert np.isnan(decode(stored, scale)).all()


@steady
@given(hn.arrays(np.float32, hn.array_shapes(min_dims=2, max_dims=2), elements=st.floats(width=32)))
def test_float16_loses_no_more_than_its_bound(vectors: Vectors) -> None:
    encoded = encode(vectors, "float16")
    assert encoded.stored.dtype == np.float16
    np.testing.assert_array_equal(encoded.held, (np.abs(vectors) <= 65504).all(axis=-1))
    held = vectors[encoded.held].astype(np.float64)
    error = np.abs(encoded.stored[encoded.held].astype(np.float64) - held)
    assert (error <= np.maximum(np.abs(held) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("number", [65504, 65505, 65519, 65520, 1e38, LARGEST, np.inf, np.nan])
def test_a_vector_is_held_where_the_encoding_holds_its_numbers(encoding: Encoding, number: float) -> None:
    """float16 would round numbers up to 65,519 to 65,504, and those above to infinity."""
    vectors = np.array([[1, number, 3], [-number, 0, 2], [1, 2, 3]], dtype=np.float32)
    held = bool(np.isfinite(number)) and (encoding != "float16" or number <= 65504)
    assert encode(vectors, encoding).held.tolist() == [held, held, True]


@steady
@given(hn.arrays(np.float32, hn.array_shapes(max_dims=3), elements=st.floats(width=32, allow_nan=False)))
def test_float32_is_kept_bit_by_bit(vectors: Vectors) -> None:
    encoded = encode(vectors, "float32")
    assert decode(encoded.stored, encoded.scale).tobytes() == vectors.tobytes()


@steady
@pytest.mark.parametrize("encoding", ENCODINGS)
@given(vectors=vectors_within(1e-20, 1e20))
def test_each_vector_is_encoded_on_its_own(encoding: Encoding, vectors: Vectors) -> None:
    together = encode(vectors, encoding)
    for i, vector in enumerate(vectors):
        alone = encode(vector, encoding)
        np.testing.assert_array_equal(together.stored[i], alone.stored)
        scales: list[Any] = [None if e.scale is None else np.asarray(e.scale) for e in (together, alone)]
        assert scales[0] is None or scales[0][i] == scales[1]
    none = encode(vectors[:0], encoding)
    assert none.stored.shape == (0, vectors.shape[1])


def test_status_values_are_in_the_order_of_their_meanings() -> None:
    assert STATUS_MEANINGS[VALID] == "valid"
    assert STATUS_MEANINGS == ("not_processed", "valid", "no_data", "masked", "failed", "valid_incomplete")
