"""What `verify` finds in cubes whose bytes are right and whose vectors are not; in good ones it finds nothing."""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from tests.conftest import Campaign, call_cli
from tests.consolidate import rewriting
from tests.edge.scenes import Scene, write_scene

from embedcube.consolidate import blocks, scenes_of_cells
from embedcube.consolidate.blocks import Sampling
from embedcube.consolidate.scenes_of_cells import Origins
from embedcube.consolidate.seams import CERTAIN, LEAST_LINES, ZONE_BOUND, TileSeam
from embedcube.consolidate.soundness import examine
from embedcube.consolidate.verify import verify_cube
from embedcube.cube.arrays import is_object
from embedcube.cube.reader import Cube
from embedcube.errors import WorkError

ZONE = "s2_mosaiks/grid"
WEST, NORTH, SIDE_PX = 400_000.0, 5_600_000.0, 512
MOSAIKS = {"backbone": {"name": "mosaiks", "filters": 8}, "chip_px": 34, "halo_px": 1, "cell_px": 8}
VIT = {"backbone": {"name": "tiny_vit", "width": 32, "depth": 1}, "chip_px": 96, "halo_px": 16, "cell_px": 16}

JUNE, JULY = "2023-06-10T10:00:00Z", "2023-07-10T10:00:00Z"


def land(side: int, seed: int = 0) -> NDArray[np.float64]:
    """Reflectance x 10000 of two bands (band, y, x): patches of several sizes, and grain."""
    rng = np.random.default_rng(seed)
    total = np.zeros((2, side, side))
    for count, weight in ((7, 600.0), (31, 400.0), (119, 250.0), (side, 150.0)):
        size = -(-side // count)
        coarse = rng.standard_normal((2, count, count))
        # rolled, so that the patches' edges are no chips' edges
        patches = np.kron(coarse, np.ones((size, size)))
        total += weight * np.roll(patches, (size * 3 // 7, size * 2 // 5), axis=(1, 2))[:, :side, :side]
    return np.clip(2200 + total, 50, 9000)


def as_bands(pixels: NDArray[np.float64]) -> Mapping[str, NDArray[Any]]:
    """The two bands as they are stored."""
    return dict(zip(("B02", "B03"), np.rint(pixels).astype(np.uint16), strict=True))


def campaign_of(folder: Path, scenes: list[Scene], layer: dict[str, Any]) -> Campaign:
    """A campaign over some scenes in the windows June and July, of which only those with scenes are asked."""
    for scene in scenes:
        write_scene(folder / "archive", scene)
    months = {"06": ["2023-06-01", "2023-07-01"], "07": ["2023-07-01", "2023-08-01"]}
    document = {
        "campaign": "seams",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": ["B02", "B03"], "offset": 0}},
        "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [WEST, NORTH]},
        "region": {"bbox": [WEST, NORTH - SIDE_PX * 10, WEST + SIDE_PX * 10, NORTH], "crs": "EPSG:32632"},
        "windows": [months[month] for month in sorted({scene.time[5:7] for scene in scenes})],
        "layers": {"s2_mosaiks": {"archives": "s2", "shard_chips": 4, "batch": 4} | layer},
        "how": {"ranks": 1, "threads": 1},
    }
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(yaml.safe_dump(document))
    return campaign


def scene_of(pixels: NDArray[np.float64], time: str = JUNE, **place: Any) -> Scene:
    """A scene of all the land, or of a part of it."""
    corner = {"west": WEST, "north": NORTH} | place
    name = f"S2A_{time[:10]}_{corner['west']:.0f}"
    return Scene(id=name, time=time, bands=as_bands(pixels), datatake=f"take of {time}", **corner)


def findings_of(campaign: Campaign) -> list[str]:
    """Findings of a run, and remarks: those let it end well."""
    with contextlib.suppress(WorkError):
        campaign.cli("run")
    report = json.loads((campaign.run.report / "verify.json").read_text())
    return [f"{one['check']}: {one['place']}: {one['found']}" for one in (*report["findings"], *report["remarks"])]


def figures_of(campaign: Campaign) -> dict[str, Any]:
    """The figures that `verify` keeps."""
    figures: dict[str, Any] = json.loads((campaign.run.report / "seams.json").read_text())["s2_mosaiks"]
    return figures


@pytest.mark.slow
def test_a_halo_of_0_shows_the_chips_of_a_transformer(tmp_path: Path) -> None:
    scenes = [scene_of(land(SIDE_PX))]
    whole = campaign_of(tmp_path / "whole", scenes, VIT)
    none = campaign_of(tmp_path / "none", scenes, VIT | {"chip_px": 64, "halo_px": 0})
    assert findings_of(whole) == []
    (found,) = findings_of(none)
    assert found.startswith("seam: s2_mosaiks, borders of chips: vectors step by 0.")
    seen = figures_of(none)["seams"]["chip"]
    assert seen["effect"] > 5 * seen["standard_error"] > 0
    for options, code in (((), 0), (("--strict",), 1)):
        done = call_cli("verify", none.run.newest_cube, *options)
        assert (done.returncode, "nothing found wrong, 1 remarks" in done.stdout) == (code, True), done.stdout
    with Image.open(none.run.report / "seams_s2_mosaiks_grid.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 20) or []}
    # of title and words, and of the legend: no seam, half and full red, full blue, nothing measured
    assert {(25, 25, 25), (255, 255, 255), (255, 127, 127), (255, 0, 0), (0, 0, 255), (200, 200, 200)} <= colours


def test_a_tile_off_by_half_a_pixel_shows_its_edge(tmp_path: Path) -> None:
    """The first tile has stripes without data, so that the border between the two tiles is long."""
    fine = land(2 * SIDE_PX)  # pixels of 5 m
    averaged = fine.reshape(2, SIDE_PX, 2, SIDE_PX, 2).mean(axis=(2, 4))
    moved = fine[:, :, 1:-1].reshape(2, SIDE_PX, 2, SIDE_PX - 1, 2).mean(axis=(2, 4))
    striped = averaged.copy()
    for column in range(57, SIDE_PX, 112):
        striped[:, :, column : column + 56] = 0
    first = replace(scene_of(striped), id="S2A_0")
    on_grid = scene_of(averaged)
    between = scene_of(moved, west=WEST + 5)
    good = campaign_of(tmp_path / "good", [first, on_grid], MOSAIKS)
    bad = campaign_of(tmp_path / "bad", [first, between], MOSAIKS)
    assert findings_of(good) == []
    assert figures_of(good)["seams"]["tile"]["lines"] >= LEAST_LINES["tile"]
    (found,) = findings_of(bad)
    assert found.startswith("seam: s2_mosaiks, borders of tiles: ")


def test_few_lines_between_two_tiles_are_measured_and_no_finding() -> None:
    rng = np.random.default_rng(5)
    seam, step = TileSeam(), np.full(16, 2.0)
    for line in range(LEAST_LINES["tile"]):
        assert not seam.enough
        seam.lines[1, 2].append((step + rng.normal(0, 0.1, 16), 12))
        measured = bool(np.isfinite(seam.effect(1.0)[0]))
        assert measured == (line >= 3)
    assert seam.enough
    # two others, which step farther on fewer lines, do not decide
    seam.lines[2, 3] = [(5 * mean, count) for mean, count in seam.lines[1, 2][:5]]
    assert seam.effect(1.0)[0] == pytest.approx(8, rel=0.1)


def test_keys_of_cells_are_kept_up_to_a_bound(written: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = Cube(written.run.newest_cube)
    free = Origins(cube)
    spots = list(Sampling(cube=cube, layer="s2_mosaiks").spots())
    of_all = [free.of(spot) for spot in spots]
    side = cube.shard_cells(ZONE)
    assert free.kept_bytes == 32 * side**2 * 24, "all of 16 shards in two windows"
    monkeypatch.setattr(scenes_of_cells, "_KEPT_BYTES", 3 * side**2 * 24)
    bound = Origins(cube)
    for spot, expected in zip(spots, of_all, strict=True):
        found = bound.of(spot)
        assert (found is None) == (expected is None)
        assert found is None or all(np.array_equal(*pair) for pair in zip(found, expected or (), strict=True))
        assert bound.kept_bytes <= 3 * side**2 * 24


@pytest.mark.slow
def test_zones_that_do_not_meet_are_found(tmp_path: Path) -> None:
    x, _ = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True).transform(12.0, 50.5)
    west = round(x / 10) * 10 - SIDE_PX * 5
    scene = scene_of(land(SIDE_PX), west=west)
    campaign = campaign_of(tmp_path, [scene], MOSAIKS | {"shard_chips": 2})
    campaign.change(lambda document: document.update(grid={"crs": "utm", "pixel": 10}, region=None))
    assert findings_of(campaign) == []
    good = figures_of(campaign)["seams"]["zone"]
    path = tmp_path / "copy.zarr"
    shutil.copytree(campaign.run.newest_cube.resolve(), path)
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    # the eastern zone five cells off
    for name in ("embedding", "scale", "status", "n_obs"):
        array: Any = zarr.open_array(path / "s2_mosaiks/utm33" / name, mode="r+")
        array[...] = np.roll(array[...], 5, axis=1)
    zone = examine(Cube(path), "s2_mosaiks").figures()["seams"]["zone"]
    assert good["effect"] < -0.3
    sampling = Sampling(cube=Cube(path), layer="s2_mosaiks")
    asked: list[NDArray[np.int64]] = []

    def within(sides: NDArray[np.int64]) -> NDArray[np.bool_]:
        asked.append(sides)
        return np.arange(sides.shape[1]) == 1 if len(asked) == 1 else np.ones(sides.shape[1], dtype=bool)

    spots = sampling.spots_of("s2_mosaiks/utm32", within)
    # asked about shards, and then about the squares of the one that is meant
    assert len(spots) == asked[1].shape[1] == (sampling.shard // sampling.step) ** 2
    assert asked[0].shape[1] > 8
    assert zone["lines"] >= LEAST_LINES["zone"]
    assert zone["effect"] > max(ZONE_BOUND, CERTAIN * zone["standard_error"])


def test_a_window_without_its_offset_drifts(tmp_path: Path) -> None:
    june = 2200 + (land(SIDE_PX) - 2200) / 2
    july = june * 1.1
    good = campaign_of(tmp_path / "good", [scene_of(june), scene_of(july, JULY)], VIT)
    bad = campaign_of(tmp_path / "bad", [scene_of(june), scene_of(july + 1000, JULY)], VIT)
    assert findings_of(good) == []
    assert [one["distance"] for one in figures_of(good)["drift"]] == pytest.approx([0.2], abs=0.2)
    (found,) = findings_of(bad)
    assert found.startswith("drift: s2_mosaiks window 1: all vectors differ from those of window 0 by ")


# --- cubes whose numbers were changed, and whose records and digests were made to agree ---------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A good cube of two windows and 16 shards, of float32; nothing changes it."""
    scenes = [scene_of(land(SIDE_PX)), scene_of(land(SIDE_PX, seed=1), JULY)]
    campaign = campaign_of(tmp_path_factory.mktemp("written"), scenes, MOSAIKS | {"encoding": "float32"})
    assert findings_of(campaign) == []
    return campaign


@pytest.fixture
def cube(written: Campaign, tmp_path: Path) -> Path:
    """A copy of its cube that may be written."""
    path = tmp_path / "cube.zarr"
    shutil.copytree(written.run.newest_cube.resolve(), path)
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return path


def restate(path: Path, zone: str) -> None:
    """Let the records and the list of files say what the files of a cube hold."""
    rewriting.rewrite(path, zone)
    written = rewriting.restate(path, zone)
    provenance: Any = zarr.open_group(path / "provenance", mode="r+")
    # one zone: its receipt is that of all
    receipts = provenance.attrs["receipts"]
    receipts[zone]["written_bytes"] = written
    provenance.attrs.update({"receipt": receipts[zone], "receipts": receipts})
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    digests = {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in sorted(names)
        if not name.startswith("provenance/files/") and not is_object(name)
    }
    provenance.create_array("files", data=np.frombuffer(json.dumps(digests).encode(), np.uint8), overwrite=True)


def array_of(path: Path, name: str) -> Any:
    """One of the arrays of a cube, to write to."""
    return zarr.open_array(path / ZONE / name, mode="r+")


def found_in(path: Path) -> list[str]:
    """Findings in a cube, after its records and its list of files were made to say what its files hold now."""
    restate(path, ZONE)
    return [f"{one.check}: {one.place}: {one.found}" for one in verify_cube(path, lambda *_: None)]


def test_restating_alone_is_no_finding(cube: Path) -> None:
    assert found_in(cube) == []


def test_a_dead_feature_and_a_constant_one_are_named(cube: Path) -> None:
    embedding = array_of(cube, "embedding")
    values = embedding[...]
    values[..., 3] = np.where(np.isfinite(values[..., 3]), 0, np.nan)
    values[..., 5] = np.where(np.isfinite(values[..., 5]), 0.7, np.nan)
    embedding[...] = values
    dead, constant = found_in(cube)
    assert dead.startswith("features: s2_mosaiks: 1 features (3) are 0 in all ")
    assert constant.startswith("features: s2_mosaiks: 1 features (5) are one and the same number in all ")


def test_a_block_of_duplicates_is_found(cube: Path) -> None:
    embedding = array_of(cube, "embedding")
    embedding[1, 21:33, 21:33] = embedding[1, 2:14, 40:52]
    found = [one for one in found_in(cube) if one.startswith("duplicates: ")]
    assert len(found) == 1
    assert re.match(r"duplicates: s2_mosaiks: 14[0-4] of \d+ different vectors are at a second place too", found[0])


def test_a_shard_that_is_at_two_places_is_found(cube: Path) -> None:
    members = rewriting.members_of(cube, ZONE, "embedding")
    rewriting.write_members(cube, ZONE, "embedding", members | {(0, 2, 3): members[0, 1, 1]})
    found = [one for one in found_in(cube) if one.startswith("duplicates: shards ")]
    assert found == [f"duplicates: shards {ZONE} window 0 (1, 1), {ZONE} window 0 (2, 3): the same vectors at 2 places"]


def test_a_gap_in_the_form_of_a_shard_is_found(cube: Path) -> None:
    side = Cube(cube).shard_cells(ZONE)
    at = (0, slice(side, 2 * side), slice(2 * side, 3 * side))
    for name, value in (("status", 2), ("embedding", np.nan)):
        array_of(cube, name)[at] = value
    found = found_in(cube)
    assert f"counts: {ZONE} window 0 shard (1, 2): {side**2} cells no_data" in found
    assert f"gap: {ZONE} window 0 shard (1, 2): no vector, and 100% of the cells around it have one" in found


def test_a_large_layer_is_sampled_and_always_the_same_way(written: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = Cube(written.run.newest_cube)
    whole = Sampling(cube=cube, layer="s2_mosaiks")
    assert whole.words == "all 16 squares of 16 x 16 cells, in 2 windows"
    seen = np.zeros((2, 64, 64), dtype=int)
    for spot in whole.spots():
        (y, x), (rows, cols) = spot.cells, spot.inner
        seen[spot.t, y.start + rows.start : y.start + rows.stop, x.start + cols.start : x.start + cols.stop] += 1
    assert (seen[:, :62, :62] == 1).all(), "but for half a chip at the far ends, each cell is in one square"
    monkeypatch.setattr(blocks, "_NUMBERS", 1)
    one, other = (Sampling(cube=cube, layer="s2_mosaiks") for _ in range(2))
    assert one.words == "8 of 16 squares of 16 x 16 cells, in 2 windows"
    assert one.places == other.places
    assert set(one.places) < set(whole.places)
