"""MOSAIKS against an implementation of its description in plain NumPy, float64, without torch."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import benchmarks.cloud
import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tests.conftest import REAL_DATA, ROOT

from embedcube.backbones.base import Chips, FitSample, Inputs, Weights
from embedcube.backbones.mosaiks import CONVOLUTION_BIAS, ZCA_BIAS, Mosaiks
from embedcube.grid import ShardLayout
from embedcube.windows import Duration, dates_of, windows_every

BANDS = 4
INPUTS = Inputs(bands=(("B02", "B03", "B04", "B08"),))
LAYOUT = ShardLayout(chip_px=34, halo_px=1, cell_px=8, chips=2)

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


def a_sample(chips: int = 6, side: int = 34) -> NDArray[np.float32]:
    """Reflectances with noise and an edge, with a scale of its own in each band, and partly masked."""
    rng = np.random.default_rng(5)
    x = rng.gamma(4, 100, (chips, BANDS, side, side)) * np.array([1, 3, 0.2, 8])[:, None, None]
    x[:, :, :, side // 2 :] *= 1.7
    x = x + np.roll(x, 1, axis=2) + np.roll(x, 2, axis=3)
    x[0, :, 5:9, 20:] = np.nan
    x[2, 1, 11, 12] = np.nan  # one band alone
    return np.asarray(x, dtype=np.float32)


def fit_sample(x_ncyx: NDArray[np.float32]) -> FitSample:
    """Chips of one frame, as `fit` gets them."""
    return FitSample(x_ntcyx=x_ncyx[:, None], lat_ny=np.zeros((len(x_ncyx), x_ncyx.shape[2])))


def chips_of(x_btcyx: torch.Tensor, layout: ShardLayout, clear_btsyx: torch.Tensor | None = None) -> Chips:
    """Chips of monthly frames; without `clear_btsyx` they are of one archive and clear everywhere."""
    batch, frames, _, *side = x_btcyx.shape
    start = datetime(2023, 1, 1, tzinfo=UTC)
    return Chips(
        x_btcyx=x_btcyx,
        clear_btsyx=torch.ones((batch, frames, 1, *side), dtype=torch.bool) if clear_btsyx is None else clear_btsyx,
        lonlat_byxn=torch.zeros((batch, layout.chip_cells, layout.chip_cells, 2)),
        dates_tmd=torch.from_numpy(
            dates_of(windows_every(start, start.replace(month=1 + frames), Duration.parse("1 month")))
        ),
    )


def naive_fit(x_ncyx: NDArray[np.float32], *, filters: int, kernel: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Mean, standard deviation and filter bank, step by step as the docstring of the package describes them."""
    clear = np.isfinite(x_ncyx).all(axis=1)
    x = x_ncyx.astype(np.float64)
    mean = np.array([x[:, band][clear].mean() for band in range(BANDS)])
    std = np.array([x[:, band][clear].std(ddof=1) for band in range(BANDS)])
    patches = []
    for chip in (x - mean[:, None, None]) / std[:, None, None]:
        for row in range(chip.shape[1] - kernel + 1):
            for col in range(chip.shape[2] - kernel + 1):
                patch = chip[:, row : row + kernel, col : col + kernel].ravel()
                if np.isfinite(patch).all():
                    patches.append(patch)
    order = np.random.default_rng(seed).choice(len(patches), size=min(len(patches), 100_000), replace=False)
    centred = np.stack([patches[i] - patches[i].mean() for i in order])
    unit = centred / np.linalg.norm(centred, axis=1)[:, None]
    off_centre = unit - unit.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(off_centre, rowvar=False, bias=True))
    zca = vectors @ np.diag(1 / np.sqrt(values + 1e-3)) @ vectors.T
    # both the filters and the patches that they meet are whitened: twice, on the filters
    bank = off_centre[:filters] @ zca @ zca
    return mean, std, bank.reshape(filters, BANDS, kernel, kernel)


def naive_features(z_cyx: Floats, bank: Floats, layout: ShardLayout, clear_yx: Bools | None = None) -> Floats:
    """Vectors (chip_cells, chip_cells, 2 x filters): means of the positive and of the negative parts in each cell.

    Only patches all of whose pixels are clear count; NaN where there is none.
    """
    kernel = bank.shape[-1]
    seen = np.ones(z_cyx.shape[1:], dtype=bool) if clear_yx is None else clear_yx
    whole = np.asarray(sliding_window_view(seen, (kernel, kernel)).all(axis=(2, 3)))
    around = sliding_window_view(z_cyx.astype(np.float64), (kernel, kernel), axis=(1, 2))  # c y x ky kx
    answers = np.einsum("cyxij,fcij->fyx", around, bank.astype(np.float64)) - 1.0
    first, cell = layout.halo_px - kernel // 2, layout.cell_px
    vectors = np.empty((layout.chip_cells, layout.chip_cells, 2 * len(bank)))
    for i in range(layout.chip_cells):
        for j in range(layout.chip_cells):
            rows, cols = (slice(first + k * cell, first + (k + 1) * cell) for k in (i, j))
            inside = answers[:, rows, cols][:, whole[rows, cols]]
            vectors[i, j] = np.nan
            if inside.size:
                vectors[i, j, : len(bank)] = np.where(inside > 0, inside, 0).mean(axis=1)
                vectors[i, j, len(bank) :] = np.where(inside < 0, -inside, 0).mean(axis=1)
    return vectors


def file_of(weights: Weights) -> bytes:
    """Bytes of the weights file that a run would write."""
    return safetensors.numpy.save({"mean": weights.mean, "std": weights.std, **weights.tensors})


def test_the_constants_are_those_of_the_paper() -> None:
    assert (ZCA_BIAS, CONVOLUTION_BIAS) == (1e-3, -1.0)


@pytest.mark.parametrize(("kernel", "filters", "seed"), [(3, 24, 0), (5, 7, 11)])
def test_the_fit_is_what_it_says(kernel: int, filters: int, seed: int) -> None:
    layout = ShardLayout(chip_px=36, halo_px=2, cell_px=8, chips=1)
    options = {"filters": filters, "kernel_px": kernel, "seed": seed}
    weights = Mosaiks(options, layout, INPUTS).fit(fit_sample(a_sample()))
    mean, std, bank = naive_fit(a_sample(), filters=filters, kernel=kernel, seed=seed)
    np.testing.assert_allclose(weights.mean, mean, rtol=3e-7)
    np.testing.assert_allclose(weights.std, std, rtol=3e-7)
    assert set(weights.tensors) == {"bank"}
    assert weights.tensors["bank"].dtype == np.float32
    np.testing.assert_allclose(weights.tensors["bank"], bank, atol=3e-7 * np.abs(bank).max())


def test_another_seed_cuts_other_filters() -> None:
    one, other = (Mosaiks({"filters": 4, "seed": seed}, LAYOUT, INPUTS).fit(fit_sample(a_sample())) for seed in (0, 1))
    assert np.abs(one.tensors["bank"] - other.tensors["bank"]).max() > 0.1
    np.testing.assert_array_equal(one.mean, other.mean)


FIT = """
import sys, torch
from tests.backbones.test_mosaiks import INPUTS, LAYOUT, Mosaiks, a_sample, file_of, fit_sample
torch.set_num_threads(int(sys.argv[1]))
sys.stdout.buffer.write(file_of(Mosaiks({"filters": 32}, LAYOUT, INPUTS).fit(fit_sample(a_sample()))))
assert torch.get_num_threads() == int(sys.argv[1]), "the fit keeps the threads to itself"
"""


def test_every_fit_of_one_sample_has_the_same_bytes() -> None:
    backbone = Mosaiks({"filters": 32}, LAYOUT, INPUTS)
    here = file_of(backbone.fit(fit_sample(a_sample())))
    assert file_of(backbone.fit(fit_sample(a_sample()))) == here
    done = subprocess.run(
        [sys.executable, "-c", FIT, "4"],
        env=os.environ | {"OMP_NUM_THREADS": "4"},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == here


@pytest.mark.parametrize(
    ("layout", "kernel"),
    [
        (LAYOUT, 3),
        (ShardLayout(chip_px=32, halo_px=2, cell_px=7, chips=1), 5),
        (ShardLayout(chip_px=26, halo_px=5, cell_px=16, chips=1), 5),  # one cell for the whole kept centre
        (ShardLayout(chip_px=24, halo_px=4, cell_px=1, chips=1), 3),  # a cell for every pixel
    ],
)
def test_features_are_those_of_the_naive_implementation(layout: ShardLayout, kernel: int) -> None:
    backbone = Mosaiks({"filters": 12, "kernel_px": kernel}, layout, INPUTS)
    weights = backbone.fit(fit_sample(a_sample()))
    z_ncyx = np.nan_to_num((a_sample(5, layout.chip_px) - weights.mean[:, None, None]) / weights.std[:, None, None])
    with torch.inference_mode():
        found = backbone.module(weights)(chips_of(torch.from_numpy(z_ncyx)[:, None], layout)).numpy()
    assert found.shape == (5, layout.chip_cells, layout.chip_cells, backbone.dimensions(weights))
    naive = np.stack([naive_features(z_cyx, weights.tensors["bank"], layout) for z_cyx in z_ncyx])
    assert naive.min() >= 0
    assert min(naive[..., :12].max(), naive[..., 12:].max()) > 0.5, "both parts answer"
    np.testing.assert_allclose(found, naive, rtol=1e-5, atol=1e-5)


def test_frames_are_averaged() -> None:
    backbone = Mosaiks({"filters": 12}, LAYOUT, INPUTS)
    weights = backbone.fit(fit_sample(a_sample()))
    x_btcyx = torch.randn(2, 3, BANDS, 34, 34, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = backbone.module(weights)(chips_of(x_btcyx, LAYOUT)).numpy()
    frames = [[naive_features(x.numpy(), weights.tensors["bank"], LAYOUT) for x in chip] for chip in x_btcyx]
    np.testing.assert_allclose(together, np.mean(frames, axis=1), rtol=1e-5, atol=1e-5)


def blots(shape: tuple[int, ...], share: float, seed: int) -> Bools:
    """Clear pixels (..., y, x): squares of 4 x 4 px are masked, some of `share` of all, and some single pixels."""
    rng = np.random.default_rng(seed)
    *others, rows, cols = shape
    squares = rng.random((*others, -(-rows // 4), -(-cols // 4))) < share
    masked = squares.repeat(4, axis=-2).repeat(4, axis=-1)[..., :rows, :cols] | (rng.random(shape) < 0.01)
    return np.asarray(~masked)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize(("kernel", "halo"), [(3, 1), (5, 5)])
def test_masked_pixels_are_left_out_as_the_naive_implementation_does(share: float, kernel: int, halo: int) -> None:
    layout = ShardLayout(chip_px=32 + 2 * halo, halo_px=halo, cell_px=8, chips=1)
    backbone = Mosaiks({"filters": 12, "kernel_px": kernel}, layout, INPUTS)
    weights = backbone.fit(fit_sample(a_sample()))
    side = layout.chip_px
    clear = blots((4, 3, 1, side, side), share, seed=kernel)
    clear[0, 1] = False  # a whole frame
    clear[1, :, :, : side // 2] = False  # the upper cells in all frames
    z = np.random.default_rng(1).standard_normal((4, 3, BANDS, side, side)).astype(np.float32)
    z = np.where(clear, z, 0)
    with torch.inference_mode():
        chips = chips_of(torch.from_numpy(z), layout, torch.from_numpy(clear))
        found = backbone.module(weights)(chips).numpy()
    bank = weights.tensors["bank"]
    frames = [[naive_features(z[n, t], bank, layout, clear[n, t, 0]) for t in range(3)] for n in range(4)]
    naive = np.full_like(found, np.nan)
    for n, features in enumerate(frames):
        for i, j in np.ndindex(naive.shape[1:3]):
            seen = [one[i, j] for one in features if np.isfinite(one[i, j, 0])]
            if seen:
                naive[n, i, j] = np.mean(seen, axis=0)
    assert np.isnan(naive[1, ..., 0]).any()
    assert np.isfinite(naive[0, ..., 0]).any()
    np.testing.assert_allclose(found, naive, rtol=1e-5, atol=1e-5)


def test_of_two_archives_all_must_be_clear_unless_they_are_nowhere_in_the_cell() -> None:
    inputs = Inputs(bands=(("B02", "B03"), ("VV", "VH")))
    backbone = Mosaiks({"filters": 12}, LAYOUT, inputs)
    weights = backbone.fit(fit_sample(a_sample()))
    side, bank = LAYOUT.chip_px, weights.tensors["bank"]
    clear = np.ones((2, 1, 2, side, side), dtype=bool)
    clear[:, :, 0, : side // 2] = blots((2, 1, side // 2, side), 0.4, seed=2)
    clear[0, :, 0, :, :9] = False  # the first column of cells has the second archive alone
    z = np.random.default_rng(1).standard_normal((2, 1, BANDS, side, side)).astype(np.float32)
    z = np.where(clear.repeat(2, axis=2), z, 0)
    with torch.inference_mode():
        chips = chips_of(torch.from_numpy(z), LAYOUT, torch.from_numpy(clear))
        found = backbone.module(weights)(chips).numpy()
    both = np.stack([naive_features(z[n, 0], bank, LAYOUT, clear[n, 0].all(axis=0)) for n in range(2)])
    one = np.stack([naive_features(z[n, 0], bank, LAYOUT, clear[n, 0].any(axis=0)) for n in range(2)])
    alone = np.asarray(np.isnan(both).all(axis=-1))
    assert alone[0, :, 0].all()
    assert not alone[1].any()
    np.testing.assert_allclose(found, np.where(alone[..., None], one, both), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "layout", "complaint"),
    [
        ({"filter": 3}, LAYOUT, 'mosaiks: no option "filter", did you mean "filters"'),
        ({"kernel_px": 2}, LAYOUT, "mosaiks.kernel_px: 2 is not an odd number of at least 3"),
        ({"kernel_px": 1}, LAYOUT, "mosaiks.kernel_px: 1 is not an odd number of at least 3"),
        ({"kernel_px": -1}, LAYOUT, "mosaiks.kernel_px: -1 is not an odd number of at least 3"),
        ({"filters": 0}, LAYOUT, "mosaiks.filters: Input should be greater than or equal to 1 .found 0"),
        ({"kernel_px": 5}, LAYOUT, "a kernel of 5 px needs halo_px >= 2, it is 1"),
        ({}, ShardLayout(chip_px=32, halo_px=0, cell_px=16, chips=1), "a kernel of 3 px needs halo_px >= 1, it is 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], layout: ShardLayout, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Mosaiks(options, layout, INPUTS)


def test_too_few_clear_patches_are_refused() -> None:
    x_ncyx = a_sample()
    x_ncyx[:, :, 4:] = np.nan
    x_ncyx[1:] = np.nan
    with pytest.raises(ValueError, match="only 64 clear patches in the sample for 65 filters"):
        Mosaiks({"filters": 65}, LAYOUT, INPUTS).fit(fit_sample(x_ncyx))


@pytest.mark.realdata
def test_clouds_over_real_pixels_cost_less_than_half_of_what_the_fill_costs() -> None:
    """Errors of partly masked cells over the spread between cells: about 0.2, 0.3 and 0.4 where they are left out."""
    rows = benchmarks.cloud.errors(REAL_DATA, cell_px=32, square_px=8, filters=16)
    assert [row.masked for row in rows] == [0.25, 0.4, 0.5]
    assert [row.filled for row in rows] == pytest.approx([0.56, 0.90, 1.16], abs=0.08)
    assert [row.left_out for row in rows] == pytest.approx([0.20, 0.31, 0.39], abs=0.05)
