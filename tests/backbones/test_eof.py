"""EOF against numpy.linalg.svd of the same weighted anomalies, in float64."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import Chips, FitSample, Inputs
from embedcube.backbones.eof import Eof
from embedcube.campaign.how import How
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.kernel.memory import PROCESS_BYTES
from embedcube.prepare.price import fit_bytes, refuse_large_fit
from embedcube.testing.contracts import check_backbone
from embedcube.windows import Duration, dates_of, windows_every

SIDE, STEP = 12, 0.25
LAYOUT = ShardLayout(chip_px=SIDE, halo_px=0, cell_px=SIDE, chips=1)
ONE = Inputs(bands=(("t2m",),))
TWO = Inputs(bands=(("t2m", "sp"), ("tp",)), frames=2)
"""Two archives, three bands, two frames"""

Floats = NDArray[np.floating[Any]]


def a_sample(inputs: Inputs, norths: list[float], times: int, seed: int = 0) -> FitSample:
    """Chips whose first rows are at the latitudes `norths`, each at several times: waves, background and noise."""
    rng = np.random.default_rng(seed)
    chips, latitudes = [], []
    for north in norths:
        rows = north - STEP * np.arange(SIDE)
        for time in range(times):
            noise = rng.standard_normal((inputs.frames, inputs.channels, SIDE, SIDE))
            wave = 8 * np.cos(np.radians(4 * rows[:, None] + 7 * np.arange(SIDE) + 15 * time))
            scale = np.geomspace(1, 300, inputs.channels)[:, None, None]
            chips.append(scale * (280 + noise + wave * np.sin(time)))
            latitudes.append(rows)
    return FitSample(x_ntcyx=np.array(chips, dtype=np.float32), lat_ny=np.array(latitudes))


def as_chips(eof: Eof, sample: FitSample, inputs: Inputs) -> tuple[Any, Chips]:
    """Module fitted on a sample, and the chips of the sample as the kernel gives them to a module."""
    weights = eof.fit(sample)
    x_btcyx = torch.from_numpy(sample.x_ntcyx)
    mean, std = (torch.from_numpy(v)[:, None, None] for v in (weights.mean, weights.std))
    known = torch.isfinite(x_btcyx)
    first = np.cumsum([0, *map(len, inputs.bands)])
    seen = torch.stack([known[:, :, a:b].all(dim=2) for a, b in pairwise(first)], dim=2)
    lat = torch.from_numpy(sample.lat_ny.mean(axis=1)).float()
    lonlat = torch.stack([torch.zeros_like(lat), lat], dim=-1)[:, None, None]
    frames = windows_every(
        datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC), Duration.parse("1 month")
    )
    chips = Chips(
        x_btcyx=((x_btcyx - mean) / std).nan_to_num(nan=0.0),
        clear_btsyx=seen,
        lonlat_byxn=lonlat,
        dates_tmd=torch.from_numpy(dates_of(frames[: inputs.frames])),
    )
    return eof.module(weights), chips


def scores_by_svd(sample: FitSample, components: int, *, standardise: bool) -> Floats:
    """U S of the weighted matrix of anomalies, which the textbook calls the principal components."""
    x = sample.x_ntcyx.astype(np.float64)
    anomaly = x - np.nanmean(x, axis=0)
    if standardise:
        anomaly = anomaly / np.array([np.nanstd(x[:, :, band]) for band in range(x.shape[2])])[:, None, None]
    anomaly = np.nan_to_num(anomaly) * np.sqrt(np.cos(np.deg2rad(sample.lat_ny)))[:, None, None, :, None]
    left, values, _ = np.linalg.svd(anomaly.reshape(len(x), -1), full_matrices=False)
    return np.asarray((left * values)[:, :components])


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("inputs", "norths", "masked"), [(ONE, [55.0], False), (TWO, [70.0, 67.0, 10.0], True)])
def test_the_scores_are_those_of_the_svd(inputs: Inputs, norths: list[float], masked: bool, standardise: bool) -> None:
    """One chip over time is the classical EOF; several share one basis."""
    sample = a_sample(inputs, norths, times=20)
    if masked:
        sample.x_ntcyx[3, 0, :2, 4:, :5] = np.nan  # one archive at one frame
        sample.x_ntcyx[:, 1, 2, 0, 0] = np.nan  # a pixel that nothing ever shows
    eof = Eof({"components": 5, "standardise": standardise}, LAYOUT, inputs)
    module, chips = as_chips(eof, sample, inputs)
    with torch.inference_mode(), np.errstate(invalid="ignore"):
        found = module(chips)[:, 0, 0].numpy()
    with pytest.warns(RuntimeWarning, match="empty slice") if masked else _nothing():
        expected = scores_by_svd(sample, 5, standardise=standardise)
    expected *= np.sign((found * expected).sum(axis=0))
    assert found.shape == (len(norths) * 20, 5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_basis_vector_is_turned_to_its_largest_number() -> None:
    weights = Eof({"components": 5}, LAYOUT, ONE).fit(a_sample(ONE, [55.0], times=20))
    for vector in weights.tensors["basis"].reshape(5, -1):
        assert vector[np.abs(vector).argmax()] > 0


def test_a_chip_elsewhere_has_the_weights_of_its_own_latitudes() -> None:
    """The same anomaly counts less towards the pole, by sqrt(cos(latitude)) row by row."""
    eof = Eof({"components": 3}, LAYOUT, ONE)
    sample = a_sample(ONE, [20.0], times=12)
    weights = eof.fit(sample)
    basis, centre = weights.tensors["basis"].astype(np.float64), weights.tensors["centre"].astype(np.float64)
    x = np.random.default_rng(1).standard_normal((1, 1, 1, SIDE, SIDE)).astype(np.float32)
    area = PixelArea(row=SIDE * 23, col=0, rows=SIDE, cols=SIDE)
    grid = Grid(crs="EPSG:4326", pixel=STEP, origin_y=90)
    lat_y = grid.degrees(area, 1)[1][:, 0]
    lonlat = np.stack(grid.degrees(area, SIDE), axis=-1).astype(np.float32)[None]
    seen = torch.ones((1, 1, 1, SIDE, SIDE), dtype=torch.bool)
    dates = torch.from_numpy(dates_of(()))
    chips = Chips(x_btcyx=torch.from_numpy(x), clear_btsyx=seen, lonlat_byxn=torch.from_numpy(lonlat), dates_tmd=dates)
    with torch.inference_mode():
        found = eof.module(weights)(chips)[0, 0, 0].numpy()
    weighed = (x[0].astype(np.float64) - centre) * np.sqrt(np.cos(np.deg2rad(lat_y)))[:, None]
    np.testing.assert_allclose(found, np.einsum("tcyx,ktcyx->k", weighed, basis), rtol=1e-5)


def test_rows_beyond_a_pole_count_nothing() -> None:
    rows = 90.0 + STEP / 2 + STEP * (SIDE // 2 - 1) - STEP * np.arange(SIDE)
    sample = a_sample(ONE, [rows[0]], times=8)
    np.testing.assert_allclose(sample.lat_ny[0], rows)
    eof = Eof({"components": 2}, LAYOUT, ONE)
    module, chips = as_chips(eof, sample, ONE)
    changed = chips.x_btcyx.clone()
    changed[..., : SIDE // 2, :] += 1000
    with torch.inference_mode():
        assert torch.equal(module(chips), module(Chips(**{**vars(chips), "x_btcyx": changed})))
        changed[..., -1, :] += 1000
        assert not torch.equal(module(chips), module(Chips(**{**vars(chips), "x_btcyx": changed})))


@pytest.mark.parametrize(
    ("options", "layout", "inputs"),
    [
        ({"components": 4}, LAYOUT, TWO),
        ({"components": 7, "standardise": True}, ShardLayout(chip_px=41, halo_px=0, cell_px=41, chips=2), ONE),
        ({"components": 1}, ShardLayout(chip_px=1, halo_px=0, cell_px=1, chips=8), TWO),
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
    check_backbone(lambda: Eof(options, layout, inputs), layout=layout, inputs=inputs)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Eof({"component": 3}, LAYOUT, ONE), 'eof: no option "component", did you mean "components"'),
        (
            lambda: Eof({"components": 0}, LAYOUT, ONE),
            "eof.components: .*greater than or equal to 1 .found 0",
        ),
        (
            lambda: Eof({}, ShardLayout(chip_px=12, halo_px=1, cell_px=10, chips=1), ONE),
            "needs halo_px 0 and cell_px = chip_px = 12, they are 1 and 10",
        ),
        (lambda: Eof({}, ShardLayout(chip_px=12, halo_px=0, cell_px=6, chips=1), ONE), "they are 0 and 6"),
        (
            lambda: Eof({"components": 8}, LAYOUT, ONE).fit(a_sample(ONE, [55.0], times=8)),
            "components 8, but 8 chips span only 7",
        ),
        (lambda: Eof({}, LAYOUT, ONE).load(b""), "eof reads no other"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def test_a_band_without_values_and_a_projection_are_refused() -> None:
    eof, sample = Eof({"components": 2}, LAYOUT, ONE), a_sample(ONE, [55.0], times=8)
    grid = Grid.of_zone(32, 10, (0, 0))
    latitudes = grid.degrees(PixelArea(row=-560000, col=50000, rows=SIDE, cols=1), 1)[1][:, 0]
    with pytest.raises(ValueError, match="needs a grid in longitude and latitude"):
        eof.fit(FitSample(x_ntcyx=sample.x_ntcyx, lat_ny=np.tile(latitudes, (8, 1))))
    with pytest.raises(ValueError, match="band 0 has no value"):
        eof.fit(FitSample(x_ntcyx=sample.x_ntcyx * np.float32(np.nan), lat_ny=sample.lat_ny))


MEASURED = """
import sys
from pathlib import Path
import numpy as np, torch
from embedcube.backbones.base import FitSample, Inputs
from embedcube.backbones.eof import Eof
from embedcube.grid import ShardLayout

def most_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

chips, side = map(int, sys.argv[1:])
torch.linalg.svd(torch.rand(64, 64, dtype=torch.float64))
before = most_kb()
one_by_one = [np.random.default_rng(i).standard_normal((1, 1, side, side)).astype(np.float32) for i in range(chips)]
sample = FitSample(x_ntcyx=np.stack(one_by_one), lat_ny=np.tile(np.linspace(50, 51, side), (chips, 1)))
layout = ShardLayout(chip_px=side, halo_px=0, cell_px=side, chips=1)
Eof({"components": 4}, layout, Inputs(bands=(("t2m",),))).fit(sample)
print(1024 * (most_kb() - before))
"""


@pytest.mark.parametrize(("chips", "side"), [(300, 120), (1200, 36)], ids=["wide", "square"])
def test_a_fit_takes_no_more_memory_than_its_price(chips: int, side: int) -> None:
    """Two shapes: chips of many numbers, and as many chips as numbers. Memory of libraries is not counted."""
    command = [sys.executable, "-c", MEASURED, str(chips), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    priced = fit_bytes(chips, side**2) - PROCESS_BYTES
    assert 0.6 * priced < int(done.stdout) <= priced


def test_a_fit_beyond_the_memory_is_refused_with_its_price() -> None:
    how = How(ranks=2, mem_gb=0.5)
    refuse_large_fit("eof", 100, 400, how)
    with pytest.raises(RequestError, match=r"all 10,000 chips of 10,000 numbers would take 10\.73 GB, .* 1\.00 GB"):
        refuse_large_fit("eof", 10_000, 10_000, how)
