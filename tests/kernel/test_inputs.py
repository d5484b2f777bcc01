"""Chips of a layer: the bands of its archives, one archive after the other, in each frame."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from numpy.typing import NDArray
from pyproj import Transformer
from tests.conftest import SOUND_PLACE, Campaign, call_cli, cells_of_shards
from tests.edge.scenes import Scene, write_scene

from embedcube.backbones.base import Chips, Weights, make_backbone, make_inputs
from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene as Found
from embedcube.cube.reader import Cell, Cube
from embedcube.errors import RequestError
from embedcube.kernel.embed import cut_chips, to_device
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import Sample, read_sample
from embedcube.prepare.fit import fit
from embedcube.prepare.index import index
from embedcube.prepare.shards import cut
from embedcube.sources.reader import RasterReader
from embedcube.windows import dates_of

LAYER, ZONE = "s2", "s2/grid"
SIDE_PX, CELL_PX = 64, 16
"""sides in pixels of a shard, which is one chip, and of a cell"""
WEST, NORTH = 400_000.0, 5_600_000.0
CLEAR, CLOUD = 4, 9
DOCUMENT: dict[str, Any] = {
    "campaign": "inputs",
    "archives": {
        "s2": {
            "source": "sentinel2", "path": "archive", "bands": ["B02", "B03"], "mask": {"band": "SCL", "clear": [CLEAR]}
        }
    },
    "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [WEST, NORTH]},
    "windows": [["2023-06-01", "2023-08-01"]],
    "layers": {
        LAYER: {
            "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": SIDE_PX + 2, "halo_px": 1,
            "cell_px": CELL_PX, "shard_chips": 1, "batch": 2, "encoding": "float32",
        }
    },
    "how": {"ranks": 1, "threads": 1},
}  # fmt: skip


def pixels_of(seed: int) -> dict[str, NDArray[Any]]:
    """Two bands and a classification, all clear."""
    rng = np.random.default_rng(seed)
    bands: dict[str, NDArray[Any]] = {
        b: rng.integers(500, 3000, (SIDE_PX, SIDE_PX)).astype(np.uint16) for b in ("B02", "B03")
    }
    return bands | {"SCL": np.full((SIDE_PX, SIDE_PX), CLEAR, dtype=np.uint8)}


def campaign_in(folder: Path, **layer: Any) -> Campaign:
    """Campaign in a folder, with some keys of its layer changed."""
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(yaml.safe_dump(DOCUMENT | {"layers": {LAYER: DOCUMENT["layers"][LAYER] | layer}}))
    return campaign


@dataclass(frozen=True)
class Read:
    """The only shard of a campaign, as a rank reads it."""

    context: LayerContext
    scenes: list[Found]
    sample: Sample
    shard: Shard


def read_shard(campaign: Campaign) -> Read:
    """Index, and read the first shard with the kernel of the package."""
    resolved = load_campaign(campaign.file)
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    scenes = index(resolved, campaign.run)
    bands = np.ones(make_inputs(resolved, LAYER).channels, dtype=np.float32)
    context = make_context(
        resolved,
        LAYER,
        ["grid"],
        Weights(mean=0 * bands, std=bands, tensors={}),
        torch.nn.Identity(),
        torch.device("cpu"),
        batch=2,
    )
    found = cut(resolved, LAYER, context.grids["grid"], scenes)
    assert found is not None
    shards, _ = found
    linked = tuple(shards.scenes[shards.first[0] : shards.first[1]].tolist())
    shard = Shard(
        layer=LAYER, zone="grid", t=0, row=int(shards.row[0]), col=int(shards.col[0]), iy=0, ix=0, recipe="",
        scenes=linked,
    )  # fmt: skip
    reader = RasterReader(threads=2)
    try:
        sample = read_sample(shard, [scenes[i] for i in linked], context, reader)
    finally:
        reader.close()
    return Read(context, scenes, sample, shard)


# --- frames ---------------------------------------------------------------------------------------

HALF = SIDE_PX // 2
JUNE = {"early": 5, "late": 25}
JULY = {"july": 9}


@pytest.fixture(scope="module")
def seasons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of June that are clear in the west, one of July that is clear in the east; the last row is cloudy."""
    folder = tmp_path_factory.mktemp("seasons")
    for seed, (name, day) in enumerate((JUNE | JULY).items()):
        bands = pixels_of(seed)
        cloudy = np.s_[:, HALF:] if name in JUNE else np.s_[:, :HALF]
        bands["SCL"][cloudy] = CLOUD
        bands["SCL"][-CELL_PX:] = CLOUD
        month = 6 if name in JUNE else 7
        scene = Scene(id=name, time=f"2023-{month:02d}-{day:02d}T10:00:00Z", west=WEST, north=NORTH, bands=bands)
        write_scene(folder / "archive", scene)
    return folder


def band(folder: Path, scene: str, name: str) -> NDArray[np.float64]:
    """Pixels of a file, read with rasterio alone."""
    with rasterio.open(folder / "archive" / scene / f"{name}.tif") as dataset:
        return np.asarray(dataset.read(1), dtype=np.float64)


def test_each_frame_is_a_composite_of_its_own_scenes(seasons: Path, tmp_path: Path) -> None:
    shutil.copytree(seasons / "archive", tmp_path / "archive")
    read = read_shard(campaign_in(tmp_path, frames="1 month"))
    assert make_inputs(load_campaign(tmp_path / "campaign.yaml"), LAYER).frames == 2
    assert [str(frame)[:10] for frame in read.context.frames[0]] == ["2023-06-01", "2023-07-01"]
    here = np.s_[..., 1:-1, 1:-1]  # without the halo, where there is nothing
    x_tcyx, clear_tsyx = read.sample.x_tcyx[here], read.sample.clear_tsyx[here]
    assert x_tcyx.shape == (2, 2, SIDE_PX, SIDE_PX)
    assert clear_tsyx.shape == (2, 1, SIDE_PX, SIDE_PX)
    for t, (names, clear) in enumerate(((JUNE, np.s_[:-CELL_PX, :HALF]), (JULY, np.s_[:-CELL_PX, HALF:]))):
        seen = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
        seen[clear] = True
        np.testing.assert_array_equal(clear_tsyx[t, 0], seen)
        for c, name in enumerate(("B02", "B03")):
            expected = np.where(seen, np.median([band(seasons, scene, name) for scene in names], axis=0), np.nan)
            np.testing.assert_array_equal(x_tcyx[t, c], expected)
    assert np.isnan(read.sample.x_tcyx[..., 0, :]).all()


def test_a_cell_is_valid_where_any_frame_has_seen_it(seasons: Path, tmp_path: Path) -> None:
    shutil.copytree(seasons / "archive", tmp_path / "archive")
    status = np.ones((4, 4), dtype=np.uint8)
    status[-1] = 3  # masked in all frames
    n_obs = np.array([[2, 2, 1, 1]] * 3 + [[0] * 4])
    sample = read_shard(campaign_in(tmp_path, frames="1 month", min_valid=1.0)).sample
    np.testing.assert_array_equal(sample.status_yx, status)
    np.testing.assert_array_equal(sample.n_obs_yx, n_obs)


def test_a_footprint_is_seen_when_frames_together_have_seen_it(tmp_path: Path) -> None:
    """Both months together show all of the first cell, neither alone does; of the third cell one pixel is missing."""
    for month, rows in ((6, np.s_[:10]), (7, np.s_[6:])):
        bands = pixels_of(month)
        bands["SCL"][:CELL_PX, :CELL_PX] = CLOUD
        bands["SCL"][:CELL_PX, :CELL_PX][rows] = CLEAR
        bands["SCL"][0, 2 * CELL_PX] = CLOUD
        scene = Scene(id=f"m{month}", time=f"2023-{month:02d}-05T10:00:00Z", west=WEST, north=NORTH, bands=bands)
        write_scene(tmp_path / "archive", scene)
    sample = read_shard(campaign_in(tmp_path, frames="1 month", min_valid=1.0)).sample
    assert sample.status_yx[0].tolist() == [1, 1, 3, 1]
    # a layer that looks at June alone has not seen the first cell
    june = campaign_in(tmp_path, min_valid=1.0)
    june.change(lambda document: document.update(windows=[["2023-06-01", "2023-07-01"]]))
    assert read_shard(june).sample.status_yx[0].tolist() == [3, 1, 3, 1]


def test_the_encoder_sees_what_each_frame_shows(seasons: Path, tmp_path: Path) -> None:
    shutil.copytree(seasons / "archive", tmp_path / "archive")
    read = read_shard(campaign_in(tmp_path, frames="1 month"))
    pixels = to_device(read.shard, read.sample, read.context).tensors()
    chips = cut_chips(pixels, [(0, 0)], read.context)
    assert isinstance(chips, Chips)
    assert chips.x_btcyx.shape == (2, 2, 2, SIDE_PX + 2, SIDE_PX + 2)
    dates = chips.dates_tmd.tolist()
    assert dates == [[[2023, 6, 152], [2023, 6, 167]], [[2023, 7, 182], [2023, 7, 197]]]
    np.testing.assert_array_equal(chips.clear_btsyx[0].numpy(), read.sample.clear_tsyx)
    np.testing.assert_array_equal(chips.x_btcyx[0].numpy(), np.nan_to_num(read.sample.x_tcyx, nan=0.0))
    assert not chips.clear_btsyx[1].any(), "padding"
    assert not chips.x_btcyx[1].any(), "padding"
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    for row, col in ((0, 0), (1, 3)):
        centre = to_degrees.transform(WEST + (col + 0.5) * 10 * CELL_PX, NORTH - (row + 0.5) * 10 * CELL_PX)
        np.testing.assert_allclose(chips.lonlat_byxn[0, row, col].numpy(), centre, rtol=1e-6)


def test_a_cube_of_frames_is_what_the_backbone_makes_of_them(seasons: Path, tmp_path: Path) -> None:
    """Vectors of a run equal those of the same module when the test gives it the frames directly."""
    shutil.copytree(seasons / "archive", tmp_path / "archive")
    campaign = campaign_in(tmp_path, frames="1 month")
    campaign.cli("run")
    resolved = load_campaign(campaign.file)
    weights, _ = read_weights(resolved, campaign.run, LAYER)
    sample = read_shard(campaign).sample
    x_tcyx = sample.x_tcyx
    z_btcyx = torch.from_numpy(np.nan_to_num((x_tcyx - weights.mean[:, None, None]) / weights.std[:, None, None]))[None]
    chips = Chips(
        x_btcyx=z_btcyx.repeat(2, 1, 1, 1, 1),
        clear_btsyx=torch.from_numpy(sample.clear_tsyx)[None].repeat(2, 1, 1, 1, 1),
        lonlat_byxn=torch.zeros((2, 4, 4, 2)),
        dates_tmd=torch.from_numpy(dates_of(resolved.frames(LAYER)[0])),
    )
    with torch.inference_mode():
        expected = make_backbone(resolved, LAYER).module(weights)(chips)[0].numpy()
    found = Cube(campaign.run.newest_cube).vectors(ZONE, 0, *cells_of_shards(campaign.run.newest_cube, ZONE))[:4, :4]
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-5, atol=1e-6)
    assert np.isnan(found[3]).all()
    cube = Cube(campaign.run.newest_cube)
    lon, lat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(WEST + 80, NORTH - 80)
    explained = cube.explain(cube.cell_at(lon, lat, "2023-06-15"))
    assert explained["preprocessing"]["frames"] == "1 month"
    assert [scene["id"] for scene in explained["scenes"]] == list(JUNE), "July was cloudy there"


# --- two archives ---------------------------------------------------------------------------------


def split(document: dict[str, Any]) -> None:
    """The four bands of the demo as two archives with two bands each, in the same order."""
    whole = document["archives"].pop("s2")
    document["archives"] = {
        "blue_green": whole | {"bands": whole["bands"][:2]},
        "red_nir": whole | {"bands": whole["bands"][2:]},
    }
    (layer,) = document["layers"].values()
    layer["archives"] = list(document["archives"])


@pytest.mark.slow
def test_two_archives_are_the_channels_of_one_behind_the_others(demo: Campaign, tmp_path: Path) -> None:
    """Two archives with half of the bands each give the cube of one archive, except where the band is truncated."""
    halves = Campaign(tmp_path / "halves" / "campaign.yaml")
    halves.file.parent.mkdir()

    def fitted_in_june(document: dict[str, Any]) -> None:
        # the torn band is of July: it would be missed in one archive alone, and the weights be others
        document["layers"]["s2_mosaiks"]["fit"] = {"start": "2023-06-01", "end": "2023-07-01"}

    demo.change(fitted_in_june)
    shutil.copy(demo.file, halves.file)
    halves.change(split)
    for campaign in (demo, halves):
        campaign.cli("run")
    one, two = (Cube(campaign.run.newest_cube) for campaign in (demo, halves))
    zone, (june, july) = "s2_mosaiks/grid", (0, 1)
    whole, stacked = ({name: cube.array(zone, name)[...] for name in ("status", "n_obs")} for cube in (one, two))
    for name in whole:
        np.testing.assert_array_equal(stacked[name][june], whole[name][june])
    everything = slice(0, whole["status"].shape[1]), slice(0, whole["status"].shape[2])
    vectors = [cube.vectors(zone, june, *everything) for cube in (one, two)]
    np.testing.assert_array_equal(vectors[1], vectors[0])
    assert np.isfinite(vectors[0]).any()
    # where one archive's half of a scene is torn, the other's half still shows the place, and the cell says so
    valid, incomplete, failed = 1, 5, 4
    before, after = whole["status"][july], stacked["status"][july]
    np.testing.assert_array_equal(after == valid, before == valid)
    assert set(np.unique(after[before == failed]).tolist()) == {incomplete, failed}
    np.testing.assert_array_equal(after[~np.isin(before, (failed,))], before[~np.isin(before, (failed,))])


def test_the_sample_of_two_archives_is_stacked(demo: Campaign, tmp_path: Path) -> None:
    campaign = load_campaign(demo.file)
    demo.run.root.mkdir(parents=True)
    whole = sample_of(demo)
    demo.change(split)
    halves = sample_of(demo)
    assert make_inputs(load_campaign(demo.file), "s2_mosaiks").bands == (("B02", "B03"), ("B04", "B08"))
    np.testing.assert_array_equal(halves.x_tcyx, whole.x_tcyx)
    assert halves.clear_tsyx.shape[1] == 2
    np.testing.assert_array_equal(halves.clear_tsyx[:, 0], whole.clear_tsyx[:, 0])
    np.testing.assert_array_equal(halves.clear_tsyx[:, 1], whole.clear_tsyx[:, 0])
    np.testing.assert_array_equal(halves.n_obs_yx, whole.n_obs_yx)
    assert campaign.digest != load_campaign(demo.file).digest


def sample_of(campaign: Campaign) -> Sample:
    """The shard of June with most scenes, read by the kernel."""
    resolved = load_campaign(campaign.file)
    name = "s2_mosaiks"
    scenes = index(resolved, campaign.run)
    bands = np.ones(4, dtype=np.float32)
    context = make_context(
        resolved,
        name,
        ["grid"],
        Weights(mean=bands, std=bands, tensors={}),
        torch.nn.Identity(),
        torch.device("cpu"),
        batch=2,
    )
    found = cut(resolved, name, context.grids["grid"], scenes)
    assert found is not None
    shards, _ = found
    june = np.nonzero(shards.t == 0)[0]
    most = int(june[np.diff(shards.first)[june].argmax()])
    linked = tuple(shards.scenes[shards.first[most] : shards.first[most + 1]].tolist())
    place = {"row": int(shards.row[most]), "col": int(shards.col[most])}
    shard = Shard(layer=name, zone="grid", t=0, **place, iy=0, ix=0, recipe="", scenes=linked)
    reader = RasterReader(threads=2)
    try:
        return read_sample(shard, [scenes[i] for i in linked], context, reader)
    finally:
        reader.close()


def test_a_period_of_fitting_takes_its_sample_from_its_windows_alone(demo: Campaign, tmp_path: Path) -> None:
    """June alone, and a campaign that holds nothing but June, are fitted to the same weights."""
    demo.run.root.mkdir(parents=True)
    index(load_campaign(demo.file), demo.run)

    def weights() -> bytes:
        demo.run.weights("s2_mosaiks").unlink(missing_ok=True)
        fit(load_campaign(demo.file), demo.run)
        return demo.run.weights("s2_mosaiks").read_bytes()

    demo.change(
        lambda document: document["layers"]["s2_mosaiks"].update(fit={"start": "2023-06-01", "end": "2023-07-01"})
    )
    of_june = weights()
    demo.change(lambda document: document["layers"]["s2_mosaiks"].pop("fit"))
    of_both = weights()
    demo.change(lambda document: document.update(windows=[["2023-06-01", "2023-07-01"]]))
    assert weights() == of_june
    assert of_june != of_both
    assert read_inventory(load_campaign(demo.file), demo.run)


def test_weights_state_their_period_and_pass_for_no_other(demo: Campaign, tmp_path: Path) -> None:
    june = {"start": "2023-06-01", "end": "2023-07-01"}
    july = {"start": "2023-07-01", "end": "2023-08-01"}
    period = "2023-06-01T00:00:00Z/2023-07-01T00:00:00Z"
    layer = "s2_mosaiks"
    demo.change(lambda document: document["layers"][layer].update(fit=june))
    demo.change(lambda document: document.update(region=SOUND_PLACE))
    demo.cli("run")
    frozen = demo.run.weights(layer).read_bytes()
    cube = Cube(demo.run.newest_cube)
    assert cube.group(f"{layer}/grid").attrs["embedcube:fitted_on"] == period
    y, x = (along.start for along in cells_of_shards(demo.run.newest_cube, f"{layer}/grid"))
    assert cube.explain(Cell(zone=f"{layer}/grid", t=0, y=y, x=x))["weights_fitted_on"] == period
    demo.change(lambda document: document["layers"][layer].update(fit=july))
    for verb in ("fit", "plan"):
        done = call_cli(verb, demo.file)
        assert done.returncode == 2
        said = " ".join(done.stderr.split())
        assert f"fitted on {period}, layers.{layer}.fit asks for 2023-07-01T00:00:00Z/2023-08-01T00:00:00Z; put" in said
    assert demo.run.weights(layer).read_bytes() == frozen
    # weights of elsewhere: of their own period, unless the layer insists on one
    shutil.copy(demo.run.weights(layer), tmp_path / "frozen")
    demo.run.weights(layer).unlink()
    demo.change(lambda document: document["layers"][layer].update(weights=str(tmp_path / "frozen")))
    with pytest.raises(RequestError, match=f"frozen: fitted on {period}, layers"):
        fit(load_campaign(demo.file), demo.run)
    demo.change(lambda document: document["layers"][layer].pop("fit"))
    demo.cli("fit")
    assert demo.run.weights(layer).read_bytes() == frozen
