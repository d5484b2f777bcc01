"""Five real Sentinel-2 dates through the command line, compared with a reference that does not use embedcube."""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
import yaml
from tests.conftest import REAL_DATA, ROOT, Campaign, real_campaign, run_cli
from tests.sources import reference_sentinel2 as reference
from tests.sources.reference_sentinel2 import Canvas, Shot

from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Shard, read_plan, read_shards
from embedcube.campaign.scene import Scene
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import read_sample
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CAMPAIGN = ROOT / "configs" / "campaigns" / "s2_33TWL_2023-08.yaml"
ARCHIVE = REAL_DATA / "s2_l2a_33TWL_2023-08"
ZONE = "s2_mosaiks/grid"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """The campaign of `configs/campaigns` as a user runs it, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        campaign = real_campaign(CAMPAIGN, tmp_path_factory.mktemp("real"), patch)
        done = run_cli("run", campaign.file)
        assert done.returncode == 0, done.stderr
        assert "5 scenes in" in done.stdout
        assert "0 unusable" in done.stdout
        assert "nothing found wrong" in done.stdout
        yield campaign


@pytest.fixture(scope="module")
def what() -> dict[str, Any]:
    """The campaign file, parsed as plain YAML."""
    parsed: dict[str, Any] = yaml.safe_load(CAMPAIGN.read_text())
    return parsed


@pytest.fixture(scope="module")
def canvas(finished: Campaign, what: dict[str, Any]) -> Canvas:
    """The pixels of the cube."""
    return Canvas.of_cube(reference.open_zone(finished.run.newest_cube, ZONE), what["grid"]["pixel"])


@pytest.fixture(scope="module")
def shots(canvas: Canvas, what: dict[str, Any]) -> list[Shot]:
    """The scenes on the pixels of the cube."""
    archive = what["archives"]["s2"]
    return reference.read_shots(ARCHIVE, archive["bands"], archive["mask"]["clear"], canvas)


def within(shots: list[Shot], window: Any) -> list[Shot]:
    """The scenes of a window of the campaign file."""
    start, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in window)
    return [shot for shot in shots if start <= shot.time < end]


def test_the_reference_knows_nothing_of_embedcube() -> None:
    tree = ast.parse(Path(reference.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    third_party = {"numpy", "rasterio", "zarr"}
    standard = {"json", "re", "warnings", "collections", "dataclasses", "datetime", "pathlib", "typing"}
    assert {name.split(".")[0] for name in imported} <= third_party | standard
    assert not any(isinstance(node, ast.Name) and node.id == "__import__" for node in ast.walk(tree))


def test_every_cell_says_what_the_reference_finds(
    finished: Campaign, what: dict[str, Any], canvas: Canvas, shots: list[Shot]
) -> None:
    layer = what["layers"]["s2_mosaiks"]
    with xarray.open_datatree(finished.run.newest_cube, engine="zarr") as tree:
        cube = tree[ZONE].to_dataset().isel(dict(zip(("y", "x"), canvas.cells, strict=True))).load()
    assert cube.sizes["time"] == len(what["windows"]) == 3
    found_status = set()
    for t, window in enumerate(what["windows"]):
        n_obs, status = reference.counts_and_status(
            within(shots, window),
            cell_px=layer["cell_px"],
            min_valid=0.5,
        )
        np.testing.assert_array_equal(cube["n_obs"][t], n_obs)
        np.testing.assert_array_equal(cube["status"][t], status)
        np.testing.assert_array_equal(np.isfinite(cube["scale"][t]), status == reference.VALID)
        found_status |= set(np.unique(status).tolist())
    assert found_status == {reference.VALID, reference.NO_DATA, reference.MASKED}, "the scenes show all three"
    assert cube["n_obs"].max() == 5
    last_seen = 915 // layer["cell_px"]
    beyond = cube["status"][:, last_seen + 1 :]
    assert beyond.size
    assert (beyond == reference.NO_DATA).all(), "beyond the rasters there is nothing"


@pytest.fixture(scope="module")
def kernel_and_shards(finished: Campaign) -> tuple[LayerContext, dict[tuple[int, int, int], Shard], Sequence[Scene]]:
    """The product's own parts for reading a shard."""
    campaign, run = load_campaign(finished.file), finished.run
    weights, _ = read_weights(campaign, run, "s2_mosaiks")
    context = make_context(campaign, "s2_mosaiks", ["grid"], weights, torch.nn.Identity(), torch.device("cpu"), batch=2)
    shards = [shard for group in read_shards(run, read_plan(campaign, run)) for shard in group]
    # counted from the first row and column of shards
    iy, ix = min(s.iy for s in shards), min(s.ix for s in shards)
    return context, {(s.t, s.iy - iy, s.ix - ix): s for s in shards}, read_inventory(campaign, run)


@pytest.mark.parametrize("method", ["median", "mean"])
@pytest.mark.parametrize(("t", "iy", "ix"), [(0, 1, 1), (1, 0, 2)], ids=["five acquisitions", "a corner"])
def test_a_shards_composite_is_the_references(
    finished: Campaign,
    what: dict[str, Any],
    shots: list[Shot],
    kernel_and_shards: tuple[LayerContext, dict[tuple[int, int, int], Shard], Sequence[Scene]],
    method: Any,
    t: int,
    iy: int,
    ix: int,
) -> None:
    context, shards, scenes = kernel_and_shards
    archive = load_campaign(finished.file).archives["s2"].model_copy(update={"composite": method})
    (input_,) = context.inputs
    context = dataclasses.replace(context, inputs=(dataclasses.replace(input_, source=Sentinel2("s2", archive)),))
    shard = shards[t, iy, ix]
    reader = RasterReader(2)
    try:
        sample = read_sample(shard, [scenes[i] for i in shard.scenes], context, reader)
    finally:
        reader.close()
    side, halo = context.layout.shard_px, context.layout.halo_px
    here = [
        dataclasses.replace(
            shot,
            values=_cut(shot.values, iy * side - halo, ix * side - halo, side + 2 * halo),
            clear=_cut(shot.clear[None], iy * side - halo, ix * side - halo, side + 2 * halo)[0],
        )
        for shot in within(shots, what["windows"][t])
    ]
    assert len(here) == len(shard.scenes) == (5 if t == 0 else 3)
    expected = reference.composite(here, method)
    assert 0.05 < np.isnan(expected).mean() < 0.95 or t == 0
    assert np.nanmin(expected) >= 1, "the offset is in the pixels already: taking it off again goes below"
    np.testing.assert_array_equal(sample.x_tcyx, expected[None])


def _cut(layers: Any, row: int, col: int, side: int) -> Any:
    """A square of each layer; zero or false beyond the canvas."""
    padded = np.pad(layers, ((0, 0), (1, 1), (1, 1)))
    return padded[:, row + 1 : row + 1 + side, col + 1 : col + 1 + side]


def test_the_traps_are_still_there(shots: list[Shot]) -> None:
    """The faults that the archive's README warns of are in the files of the tests above."""
    import json

    import rasterio

    item = json.loads(next((ARCHIVE / "S2B_33TWL_20230813_0_L2A").glob("*.json")).read_text())
    assert item["assets"]["blue"]["proj:transform"][0] == 10
    assert item["assets"]["blue"]["raster:bands"][0]["offset"] == -0.1
    assert item["properties"]["earthsearch:boa_offset_applied"] is True
    assert "://" in item["assets"]["coastal"]["href"]
    with rasterio.open(ARCHIVE / "S2B_33TWL_20230813_0_L2A" / "SCL.tif") as dataset:
        assert dataset.driver == "JP2OpenJPEG"
        assert dataset.transform.a == 120
        assert (dataset.read(1) == 12).any()
    assert len({shot.acquisition for shot in shots}) == 5
    ringing = [shot for shot in shots if ((shot.values != 0).any(axis=0) & ~shot.data & shot.covered).any()]
    assert ringing, "near the swath's edge some bands have values where others have none"
