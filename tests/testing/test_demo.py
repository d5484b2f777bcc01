"""`embedcube demo`: what it writes, keeps and refuses, and what the cube of the whole demo shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.conftest import Campaign, call_cli

from embedcube.campaign.schema import Campaign as Document
from embedcube.cube.reader import Cube
from embedcube.testing.demo import EDITION, SEED, Kind, campaign_text, write_demo

LAYERS = {"s2_mosaiks", "s1_mosaiks", "s1s2_mosaiks", "era5_eof"}
MASKED = 3


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo with weather alone, which is written fastest."""
    folder = tmp_path_factory.mktemp("demo") / "weather"
    assert write_demo(folder, only="era5") == folder / "campaign.yaml"
    return folder


@pytest.fixture
def copied(weather: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for name, content in files_in(weather).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_whole_demo_is_below_30_mb(whole_demo: Campaign) -> None:
    folder = whole_demo.file.parent
    linked = folder / "archive" / "sentinel2"  # the tests have it once, for all demos
    sizes = {path: path.stat().st_size for part in (folder, linked) for path in part.rglob("*") if path.is_file()}
    archive = {path: size for path, size in sizes.items() if (folder / "archive") in path.parents}
    assert sum(archive.values()) < 22e6
    assert sum(sizes.values()) < 30e6


def test_nothing_but_archive_and_campaign_is_left(weather: Path) -> None:
    assert sorted(path.name for path in weather.iterdir()) == ["archive", "campaign.yaml"]
    assert sorted(path.name for path in (weather / "archive").iterdir()) == ["demo.json", "era5"]
    assert (weather / "campaign.yaml").read_text(encoding="utf-8") == campaign_text("era5")


def test_a_second_run_keeps_what_is_whole_and_what_was_edited(copied: Path) -> None:
    (copied / "campaign.yaml").write_text("edited", encoding="utf-8")
    held = next(copied.rglob("*.nc"))
    before = held.stat().st_ino
    assert write_demo(copied, only="era5") == copied / "campaign.yaml"
    assert held.stat().st_ino == before
    assert (copied / "campaign.yaml").read_text(encoding="utf-8") == "edited"


def test_an_incomplete_archive_is_made_again_with_equal_bytes(weather: Path, copied: Path) -> None:
    next(copied.rglob("2023.nc")).unlink()
    write_demo(copied, only="era5")
    assert files_in(copied) == files_in(weather)


@pytest.mark.parametrize("before", ["cut short", "other seed", "first edition"])
def test_another_demo_is_replaced(weather: Path, copied: Path, before: str) -> None:
    if before == "cut short":
        with next(copied.rglob("heights.nc")).open("r+b") as file:
            file.truncate(1000)
    elif before == "other seed":
        marker = copied / "archive" / "demo.json"
        marker.write_text(marker.read_text().replace(str(SEED), "7"))
    else:
        (copied / "archive" / "demo.json").unlink()
        first = {"type": "Collection", "id": "embedcube-demo", "embedcube:demo": [1, SEED]}
        (copied / "archive" / "collection.json").write_text(json.dumps(first))
    write_demo(copied, only="era5")
    assert files_in(copied) == files_in(weather)


def test_another_kind_replaces_a_campaign_that_was_not_edited(copied: Path) -> None:
    write_demo(copied, only="sentinel1")
    assert (copied / "campaign.yaml").read_text(encoding="utf-8") == campaign_text("sentinel1")
    assert sorted(path.name for path in (copied / "archive").iterdir()) == ["demo.json", "sentinel1"]


def test_the_command_takes_one_kind(tmp_path: Path) -> None:
    done = call_cli("demo", tmp_path / "demo", "--only", "era5", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"campaign": str(tmp_path / "demo" / "campaign.yaml")})
    marker = json.loads((tmp_path / "demo" / "archive" / "demo.json").read_text())
    assert marker["embedcube:demo"] == [EDITION, SEED, "era5"]
    done = call_cli("demo", tmp_path / "demo", "--only", "landsat")
    assert done.returncode == 2
    assert "landsat" in done.stderr


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear", encoding="utf-8")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        write_demo(tmp_path)
    for name, text in (("collection.json", '{"type": "Collection", "id": "sentinel-2-l2a"}'), ("demo.json", "[1]")):
        other = tmp_path / name / "archive"
        other.mkdir(parents=True)
        (other / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="holds other things"):
            write_demo(tmp_path / name)
    with pytest.raises(ValueError, match="is a file"):
        write_demo(tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("only", "layers"),
    [
        (None, LAYERS),
        ("sentinel2", {"s2_mosaiks"}),
        ("sentinel1", {"s1_mosaiks"}),
        ("era5", {"era5_eof"}),
    ],
)
def test_a_smaller_demo_has_the_layers_that_it_has_data_for(only: Kind | None, layers: set[str]) -> None:
    whole, document = (yaml.safe_load(campaign_text(kind)) for kind in (None, only))
    assert set(Document.model_validate(document).layers) == layers
    for part in ("archives", "layers"):
        assert document[part] == {name: whole[part][name] for name in document[part]}


# --- the cube of the whole demo -------------------------------------------------------------------------


def statuses(cube: Cube, layer: str) -> set[int]:
    """The status of all cells of a layer's shards; beside them nothing is processed."""
    found: set[int] = set()
    for zone in cube.zones_of(layer):
        side, status = cube.shard_cells(zone), np.asarray(cube.array(zone, "status")[:])
        for t, iy, ix in (place for name, *place in cube.provenance.places if name == zone):
            cells = status[t, iy * side : (iy + 1) * side, ix * side : (ix + 1) * side]
            found |= set(np.unique(cells).tolist())
            cells[...] = 0
        assert not status.any()
    return found


def test_the_cube_shows_every_layer_and_every_status(whole_demo: Campaign) -> None:
    cube = Cube(whole_demo.run.newest_cube)
    assert set(cube.layers) == LAYERS
    assert statuses(cube, "era5_eof") == {1}
    assert statuses(cube, "s1_mosaiks") == {1, 2}, "radar is never masked"
    assert statuses(cube, "s2_mosaiks") == {1, 2, 3, 4, 5}
    assert statuses(cube, "s1s2_mosaiks") <= {1, 2, 3, 4, 5}


def test_radar_fills_what_clouds_hide(whole_demo: Campaign) -> None:
    """Cells on the same lattice of 160 m: those that Sentinel-2 never saw clear have a vector where radar is there."""
    cube = Cube(whole_demo.run.newest_cube)
    places: dict[str, dict[tuple[int, float, float], int]] = {}
    for layer in ("s2_mosaiks", "s1_mosaiks", "s1s2_mosaiks"):
        (zone,) = cube.zones_of(layer)
        xs, ys, status = (np.asarray(cube.array(zone, name)[:]) for name in ("x", "y", "status"))
        places[layer] = {
            (t, x, y): int(status[t, i, j])
            for t in range(2)
            for i, y in enumerate(ys.tolist())
            for j, x in enumerate(xs.tolist())
        }
    hidden = [place for place, status in places["s2_mosaiks"].items() if status == MASKED]
    rescued = [place for place in hidden if places["s1_mosaiks"].get(place) == 1]
    assert len(rescued) > 50
    assert {places["s1s2_mosaiks"][place] for place in rescued} == {1}
