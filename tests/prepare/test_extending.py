"""A cube that gets more windows, or other chunks: no shard is embedded twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml
import zarr
from tests.conftest import Campaign, cube_bytes
from tests.consolidate.test_resuming import damage_a_part
from tests.sources.reference_sentinel2 import VALID

from embedcube.campaign.recorded import recorded_recipes
from embedcube.consolidate.earlier import Folder, _moved
from embedcube.cube.arrays import layer_specs
from embedcube.cube.reader import Cube
from embedcube.errors import WorkError
from embedcube.grid import ShardLayout
from embedcube.zones import ObjectShape

ZONE = "s2_mosaiks/grid"


@pytest.fixture
def copied(finished_demo: Campaign, tmp_path: Path) -> Campaign:
    """A copy of the finished demo with its parts, in a folder of its own."""
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(finished_demo.file, campaign.file)
    shutil.copytree(finished_demo.run.root.parent, tmp_path / "runs", symlinks=True)
    archive = finished_demo.file.parent / "archive" / "sentinel2"
    campaign.change(lambda document: document["archives"]["s2"].update(path=str(archive)))
    return campaign


def test_a_later_window_is_more_shards_and_nothing_else(demo: Campaign, finished_demo: Campaign) -> None:
    """A run of June, then one of June and July, gives the bytes of a single run; June is not embedded again."""

    def only_june(document: dict[str, Any]) -> None:
        document["windows"] = {"start": "2023-06-01", "end": "2023-07-01", "step": "1 month"}

    # the fit takes its sample from all windows: with the weights given, both campaigns are about the same vectors
    weights = finished_demo.run.weights("s2_mosaiks")
    demo.run.weights("s2_mosaiks").parent.mkdir(parents=True)
    shutil.copy(weights, demo.run.weights("s2_mosaiks"))
    demo.change(only_june)
    demo.cli("run")
    june, first = recorded_recipes(demo.run), demo.run.newest_cube.resolve()
    of_june = cube_bytes(first, provenance=True)
    assert len(june) == 15

    demo.change(lambda document: document["windows"].update(end="2023-08-01"))
    demo.cli("run")
    assert len(recorded_recipes(demo.run)) == 30 + 9, "those of the torn scene of July twice"
    second = demo.run.newest_cube.resolve()
    assert second != first
    assert cube_bytes(first, provenance=True) == of_june, "the version before stays"
    assert cube_bytes(second) == cube_bytes(finished_demo.run.newest_cube)


@pytest.mark.slow
def test_files_that_come_with_a_later_window_are_found(demo: Campaign, tmp_path: Path) -> None:
    """When July's files come later, `run` indexes again with the same kind of digests: recipes of June stay equal."""
    archive = yaml.safe_load(demo.file.read_text())["archives"]["s2"]["path"]
    later = [folder for folder in Path(archive).iterdir() if "_202307" in folder.name]
    assert later
    shutil.copytree(archive, tmp_path / "archive", ignore=lambda _, names: [n for n in names if "_202307" in n])
    demo.change(lambda document: document["archives"]["s2"].update(path="archive"))
    demo.change(lambda document: document["windows"].update(end="2023-07-01"))
    demo.cli("index", "--digest", "full")
    demo.cli("run")
    june = recorded_recipes(demo.run)
    for folder in later:
        shutil.copytree(folder, tmp_path / "archive" / folder.name)
    demo.change(lambda document: document["windows"].update(end="2023-08-01"))
    said = demo.cli("run")
    assert "index       again, as the windows or the region have changed" in said
    assert "no scene in" not in said
    both = recorded_recipes(demo.run)
    assert set(june) < set(both)
    # full digests find the torn scene before anything is embedded
    assert len(both) == 2 * len(june)
    with xarray.open_zarr(demo.run.newest_cube, group=ZONE, consolidated=False) as cube:
        assert (cube.status == VALID).any(("y", "x")).values.tolist() == [True, True]
    assert "scenes, from an earlier run" in demo.cli("run")


def test_windows_without_a_scene_are_named(demo: Campaign) -> None:
    """Some are named where there are many. Only `run` and `index` look through the archive again."""
    demo.cli("index")
    demo.cli("fit")
    assert "no scene in" not in demo.cli("plan")
    demo.change(lambda document: document["windows"].update(end="2024-03-01"))
    said = demo.cli("plan")
    assert "layers.s2_mosaiks: no scene in 7 of 9 windows: 2023-08-01T00:00:00Z/2023-09-01T00:00:00Z, " in said
    assert ", 2023-11-01T00:00:00Z/2023-12-01T00:00:00Z and 3 more; if the archive" in said


def test_windows_are_put_into_one_chunk_for_readers_of_series(copied: Campaign, finished_demo: Campaign) -> None:
    before = recorded_recipes(copied.run)
    files = sorted(copied.run.parts.rglob("records.jsonl"))
    copied.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=2))
    for verb in ("plan", "embed", "consolidate", "verify"):
        copied.cli(verb)
    assert recorded_recipes(copied.run) == before
    assert sorted(copied.run.parts.rglob("records.jsonl")) == files, "no shard is embedded again"
    array = zarr.open_array(copied.run.newest_cube / ZONE / "embedding", mode="r")
    assert array.chunks[0] == 2
    with (
        xarray.open_zarr(copied.run.newest_cube, group=ZONE, consolidated=False) as series,
        xarray.open_zarr(finished_demo.run.newest_cube, group=ZONE, consolidated=False) as maps,
    ):
        xarray.testing.assert_identical(series.load(), maps.load())


def test_windows_that_do_not_fill_a_chunk_are_not_processed_beyond_the_last(copied: Campaign) -> None:
    copied.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=12))
    for verb in ("plan", "consolidate", "verify"):
        copied.cli(verb)
    array = zarr.open_array(copied.run.newest_cube / ZONE / "status", mode="r")
    assert array.shape[0] == 2
    assert array.chunks[0] == 12
    places = np.array([place[1:] for place in Cube(copied.run.newest_cube).provenance.places])
    assert len(places) == 30
    processed = np.asarray(array[...]) != 0
    expected = np.zeros_like(processed)
    for t, iy, ix in places:
        expected[t, iy * 24 : iy * 24 + 24, ix * 24 : ix * 24 + 24] = True
    np.testing.assert_array_equal(processed, expected)


def test_a_damaged_array_is_found_before_windows_are_put_together(copied: Campaign) -> None:
    copied.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=2))
    copied.cli("plan")
    pack, array = damage_a_part(copied)
    with pytest.raises(WorkError, match=f"{pack}: {array}, "):
        copied.cli("consolidate")


def inodes(cube: Path) -> dict[str, int]:
    """The inode of each object of the layer's zone."""
    cube = cube.resolve()
    return {str(path.relative_to(cube / ZONE)): path.stat().st_ino for path in (cube / ZONE).glob("*/c.*")}


def from_column(campaign: Campaign, column: int) -> Path:
    """Leave out of the region what lies west of a column of shards, and plan again; returns the cube of before."""
    cube = campaign.run.newest_cube.resolve()
    side, _, left, _, _, top = (value * 24 for value in Cube(cube).group(ZONE).attrs["spatial:transform"])
    rows, cols = zip(*(place[2:] for place in Cube(cube).provenance.places), strict=True)
    left, top, inside = left / 24, top / 24, 80
    bbox = [left + column * side, top - (max(rows) + 1) * side, left + (max(cols) + 1) * side, top - min(rows) * side]
    box = [bbox[0] + inside, bbox[1] + inside, bbox[2] - inside, bbox[3] - inside]
    region = {"bbox": box, "crs": "EPSG:32632"}
    campaign.change(lambda document: document.update(region=region))
    campaign.cli("plan")
    return cube


def test_an_object_that_has_not_changed_is_stored_once(copied: Campaign) -> None:
    earlier = from_column(copied, 7)
    said = copied.cli("consolidate")
    assert ", in 8 objects, 4 of them linked from an earlier version" in " ".join(said.split())
    before, after = inodes(earlier), inodes(copied.run.newest_cube)
    assert len(after) == 8
    shared = {name for name, inode in after.items() if inode in before.values()}
    assert shared == {name for name in after if name.split(".")[3] == "1"}
    assert all(before[name] == after[name] for name in shared)
    assert "nothing found wrong" in copied.cli("verify", "--recompute", "0")


@pytest.mark.parametrize(
    ("transform", "moved"),
    [
        ([10.0, 0.0, 1280.0, 0.0, -10.0, 6400.0], (0, 0)),
        ([10.0, 0.0, 1920.0, 0.0, -10.0, 5120.0], (2, 1)),
        ([10.0, 0.0, 640.0, 0.0, -10.0, 7040.0], (-1, -1)),
        ([10.0, 0.0, 1280.0, 0.0, -10.0, 6300.0], None),
        ([20.0, 0.0, float("nan"), 0.0, -10.0, 6400.0], None),
        ("anything", None),
    ],
    ids=["the same", "later", "earlier", "between objects", "nowhere", "no transform"],
)
def test_objects_of_an_earlier_version_may_have_other_names(
    transform: object, moved: tuple[int, int] | None, tmp_path: Path
) -> None:
    """Where its arrays begin some whole objects further; here an object has 64 x 64 cells of 10 m."""
    layout = ShardLayout(chip_px=8, halo_px=0, cell_px=1, chips=1)
    spec = layer_specs(layout, dimensions=4, encoding="int8")[2].in_objects(ObjectShape(windows=1, rows=8, cols=8))
    for name, own in (("new", [10.0, 0.0, 1280.0, 0.0, -10.0, 6400.0]), ("old", transform)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(json.dumps({"attributes": {"spatial:transform": own}}))
    assert _moved(tmp_path / "new", tmp_path / "old", spec) == moved
    if moved == (2, 1):
        folder = Folder(tmp_path, moved, spec)
        objects = [folder.object(place) for place in ((0, 2, 1), (3, 4, 1))]
        assert objects == [tmp_path / "c.0.0.0", tmp_path / "c.3.2.0"]
        assert folder.object((0, 1, 1)) is None


def test_a_damaged_object_of_an_earlier_version_is_made_again(copied: Campaign) -> None:
    """One that is gone, too; and the earlier version stays as it is."""
    earlier = from_column(copied, 7)
    flipped, gone = (earlier / ZONE / name / "c.0.0.1" for name in ("n_obs", "status"))
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.chmod(0o644)
    flipped.write_bytes(data)
    gone.unlink()
    said = copied.cli("consolidate")
    assert "in 8 objects, 2 of them linked from an earlier version" in " ".join(said.split())
    assert "nothing found wrong" in copied.cli("verify", "--recompute", "0")
    assert flipped.read_bytes() == data


def test_a_damaged_chunk_of_the_cube_is_found(copied: Campaign) -> None:
    copied.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=2))
    for verb in ("plan", "consolidate"):
        copied.cli(verb)
    victim = next((copied.run.newest_cube / ZONE / "n_obs").glob("c.*"))
    values = np.frombuffer(victim.read_bytes(), dtype=np.uint8).copy()
    values[-1] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(values.tobytes())
    with pytest.raises(WorkError, match=r"n_obs/c\."):
        copied.cli("verify")
