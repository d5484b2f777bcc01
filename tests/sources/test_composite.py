"""The composite of acquisitions is NumPy's masked median or mean, pixel by pixel, for every count and type."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from embedcube.sources.base import Observation
from embedcube.sources.composite import Composite, Method, _sorted_pixelwise, composite

SHAPE = (2, 3, 4)
"""bands, rows and columns of every observation in this module"""

METHODS = st.sampled_from(["median", "mean"])


@dataclass(frozen=True)
class Case:
    """Scenes in order, with their acquisitions, values and masks."""

    acquisitions: list[str]
    values: NDArray[Any]
    """(scene, band, y, x)"""
    seen: NDArray[np.bool_]
    """(scene, y, x)"""
    clear: NDArray[np.bool_]

    def observations(self) -> list[tuple[str, Observation]]:
        """The observations, in the form that a source passes them on."""
        return [
            (name, Observation(values_cyx=v, seen_yx=s, clear_yx=c))
            for name, v, s, c in zip(self.acquisitions, self.values, self.seen, self.clear, strict=True)
        ]


def masks(count: int) -> st.SearchStrategy[NDArray[np.bool_]]:
    """Masks of each scene, often all clear or all masked."""
    shape = (count, *SHAPE[1:])
    return st.one_of(
        st.just(np.ones(shape, dtype=bool)),
        npst.arrays(np.bool_, shape),
        npst.arrays(np.bool_, (count, 1, 1)).map(lambda a: np.broadcast_to(a, shape).copy()),
    )


UINT16 = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 65534, 65535]))
INT16 = st.integers(-32768, 32767)
FLOAT32 = st.floats(-1e6, 1e6, width=32)
NOT_A_NUMBER = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@st.composite
def cases(draw: st.DrawFn, most: int = 9) -> Case:
    """One to `most` scenes of any type, some of them sharing an acquisition."""
    count = draw(st.integers(1, most))
    dtype, elements = draw(st.sampled_from([(np.uint16, UINT16), (np.int16, INT16), (np.float32, FLOAT32)]))
    values = draw(npst.arrays(dtype, (count, *SHAPE), elements=elements))
    clear = draw(masks(count))
    if dtype is np.float32:
        # where there is no data, floats hold anything: no source calls such pixels clear
        broken = draw(npst.arrays(np.float32, (count, *SHAPE), elements=NOT_A_NUMBER))
        values = np.where(clear[:, None], values, broken)
    seen = clear | draw(masks(count))
    breaks = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    acquisitions = [f"p{number:02d}" for number in np.cumsum(breaks).tolist()]
    return Case(acquisitions, values, seen, clear)


def masked_acquisitions(case: Case) -> NDArray[np.float64]:
    """Values (acquisition, band, y, x), NaN where masked: the first clear scene of each acquisition counts."""
    pictures = []
    for name in dict.fromkeys(case.acquisitions):
        picture = np.full(SHAPE, np.nan)
        for scene in (i for i, other in enumerate(case.acquisitions) if other == name):
            for y, x in np.ndindex(*picture.shape[1:]):
                if case.clear[scene, y, x] and np.isnan(picture[0, y, x]):
                    picture[:, y, x] = case.values[scene, :, y, x]
        pictures.append(picture)
    return np.stack(pictures)


def expected(case: Case, method: Method) -> NDArray[np.float32]:
    """Masked median or mean in float64, rounded once; NaN where nothing is clear."""
    pictures = masked_acquisitions(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that nothing is clear somewhere
        combined = np.nanmedian(pictures, axis=0) if method == "median" else np.nanmean(pictures, axis=0)
    return np.asarray(combined, dtype=np.float32)


@settings(deadline=None)
@given(cases(), METHODS)
def test_a_composite_is_numpys_masked_median_or_mean(case: Case, method: Method) -> None:
    found = composite(case.observations(), method)
    reference = expected(case, method)
    alone = len(set(case.acquisitions)) == 1 and case.clear.any(axis=0).all()
    assert found.x_cyx.dtype == (case.values.dtype if alone else np.float32)
    if case.values.dtype.kind == "f":
        # the median of an even number is a mean in float32, the mean is rounded once
        np.testing.assert_allclose(found.x_cyx, reference, rtol=2e-7, atol=1e-6)
    else:
        np.testing.assert_array_equal(found.x_cyx, reference)


@settings(deadline=None)
@given(cases(), METHODS)
def test_a_composite_says_what_it_is_made_of(case: Case, method: Method) -> None:
    found = composite(case.observations(), method)
    np.testing.assert_array_equal(found.clear_yx, case.clear.any(axis=0))
    np.testing.assert_array_equal(found.masked_yx, (case.seen & ~case.clear).any(axis=0))
    np.testing.assert_array_equal(np.isnan(found.x_cyx), np.broadcast_to(~found.clear_yx, SHAPE))
    assert len(found.used_yx) == len(case.acquisitions)
    for scene, used in enumerate(found.used_yx):
        earlier = [i for i in range(scene) if case.acquisitions[i] == case.acquisitions[scene]]
        before = case.clear[earlier].any(axis=0)
        np.testing.assert_array_equal(used, case.clear[scene] & ~before)


@settings(deadline=None, max_examples=25)
@given(st.data(), METHODS)
def test_the_order_of_acquisitions_does_not_matter(data: st.DataObject, method: Method) -> None:
    case = data.draw(cases())
    whole_numbers = case.values.dtype.kind != "f"
    names = list(dict.fromkeys(case.acquisitions))
    order = [
        i for name in data.draw(st.permutations(names)) for i, other in enumerate(case.acquisitions) if other == name
    ]
    shuffled = Case([case.acquisitions[i] for i in order], case.values[order], case.seen[order], case.clear[order])
    one, other = composite(case.observations(), method), composite(shuffled.observations(), method)
    if whole_numbers or method == "median":
        np.testing.assert_array_equal(one.x_cyx, other.x_cyx)
    else:
        np.testing.assert_allclose(one.x_cyx, other.x_cyx, rtol=2e-7, atol=1e-2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.data())
def test_the_network_sorts_any_number_of_layers(count: int, data: st.DataObject) -> None:
    dtype, elements = data.draw(st.sampled_from([(np.uint16, UINT16), (np.int16, INT16), (np.float32, FLOAT32)]))
    layers = data.draw(npst.arrays(dtype, (count, 5, 5), elements=elements))
    np.testing.assert_array_equal(np.stack(_sorted_pixelwise(list(layers))), np.sort(layers, axis=0))


@pytest.mark.parametrize("count", range(1, 12))
def test_the_network_sorts_every_pattern_of_noughts_and_ones(count: int) -> None:
    """The 0-1 principle (Knuth, TAOCP 3, 5.3.4): a network that sorts these sorts everything."""
    patterns = (np.arange(2**count)[None] >> np.arange(count)[:, None]) & 1
    ordered = np.stack(_sorted_pixelwise(list(patterns.astype(np.uint8))))
    np.testing.assert_array_equal(ordered, np.sort(patterns, axis=0))


@pytest.mark.parametrize("method", ["median", "mean"])
@pytest.mark.parametrize("count", range(1, 41))
def test_every_number_of_acquisitions(count: int, method: Method) -> None:
    """Even and odd counts at each pixel from none to all, with the largest value among the valid ones."""
    rng = np.random.default_rng(count)
    values = rng.integers(0, 65536, (count, *SHAPE)).astype(np.uint16)
    values[rng.random(values.shape) < 0.3] = 65535
    clear = rng.random((count, *SHAPE[1:])) < rng.random(SHAPE[1:])
    clear[:, 0, 0], clear[:, -1, -1] = True, False
    case = Case([f"p{i:02d}" for i in range(count)], values, np.ones_like(clear), clear)
    np.testing.assert_array_equal(composite(case.observations(), method).x_cyx, expected(case, method))
    everywhere = Case(case.acquisitions, values, case.seen, np.ones_like(clear))
    np.testing.assert_array_equal(composite(everywhere.observations(), method).x_cyx, expected(everywhere, method))


def test_the_largest_number_is_a_value_like_any_other() -> None:
    """65535 also replaces masked pixels while sorting: a valid 65535 must still count."""
    found = _one_pixel([65535, 65535, 7], [True, True, False], "median")
    assert found.x_cyx[0, 0, 0] == 65535
    assert _one_pixel([65535, 1], [True, True], "median").x_cyx[0, 0, 0] == 32768
    assert _one_pixel([65535, 1], [False, True], "median").x_cyx[0, 0, 0] == 1


def test_the_first_clear_scene_of_a_acquisition_wins() -> None:
    """Three scenes of one acquisition and one of another: where they overlap, each acquisition counts once."""
    values = np.array([10, 20, 30, 40], dtype=np.uint16)
    clear = [False, True, True, True]
    found = _one_pixel(values.tolist(), clear, "mean", acquisitions=["a", "a", "a", "b"])
    assert found.x_cyx[0, 0, 0] == 30
    assert [bool(used[0, 0]) for used in found.used_yx] == [False, True, False, True]


def _one_pixel(
    values: Sequence[int], clear: Sequence[bool], method: Method, acquisitions: list[str] | None = None
) -> Composite:
    count = len(values)
    mask = np.array(clear).reshape(count, 1, 1)
    names = acquisitions or [f"p{i:02d}" for i in range(count)]
    case = Case(names, np.array(values, dtype=np.uint16).reshape(count, 1, 1, 1), np.ones_like(mask), mask)
    return composite(case.observations(), method)
