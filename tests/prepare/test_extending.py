"""A cube that gets more windows, or other chunks: no shard is embedded twice."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml
import zarr
from tests.conftest import Campaign, cube_bytes
from tests.sources.reference_sentinel2 import VALID

from embedcube.campaign.parts import recorded_recipes
from embedcube.errors import WorkError

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
    objects = {path.relative_to(first): path.stat().st_ino for path in first.glob("*/*/*/c.*")}
    assert len(june) == 15

    demo.change(lambda document: document["windows"].update(end="2023-08-01"))
    demo.cli("run")
    assert len(recorded_recipes(demo.run)) == 30 + 9, "those of the torn scene of July twice"
    second = demo.run.newest_cube.resolve()
    assert second != first
    assert first.exists(), "the version before stays"
    assert all((second / name).stat().st_ino == inode for name, inode in objects.items()), "adopted, not copied"
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
    assert array.shards is not None
    assert array.shards[0] == 12
    assert (np.asarray(array[...]) != 0).all()


def test_a_damaged_object_is_found_before_it_is_rechunked(copied: Campaign) -> None:
    victim = next(path for path in sorted(copied.run.parts.glob("*/*/*/*/*/embedding/c.*")))
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.unlink()
    victim.write_bytes(data)
    copied.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=2))
    copied.cli("plan")
    with pytest.raises(WorkError, match=victim.name):
        copied.cli("consolidate")


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
