"""`explain` leads from a place and a time to exactly the scenes behind the vector; compared with the rasters."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyproj import Transformer
from tests.conftest import Campaign, call_cli
from tests.sources import reference_sentinel2 as reference
from tests.sources.reference_sentinel2 import Canvas, Shot

from embedcube.campaign.parts import scan_records
from embedcube.cube.reader import Cell, Cube
from embedcube.testing.demo_sentinel2 import (
    EAST,
    JUL_EAST,
    JUL_WEST,
    JUN_CLEAR,
    JUN_EDGE,
    JUN_OVERCAST,
    LOOKED_TWICE,
    SCENES,
    TORN_AND_CLEAR,
    TORN_AND_CLOUDY,
    WEST,
)
from embedcube.testing.demo_stac import CRS

ZONE = "s2_mosaiks/grid"
TORN = next(scene for scene in SCENES if scene.torn_band)
NOTHING_CLEAR = "no clear pixel in the cell"


@pytest.fixture(scope="session")
def canvas(finished_demo: Campaign) -> Canvas:
    """The pixels of the demo's cube."""
    what = yaml.safe_load(finished_demo.file.read_text())
    return Canvas.of_cube(reference.open_zone(finished_demo.run.newest_cube, ZONE), what["grid"]["pixel"])


@pytest.fixture(scope="session")
def shots(finished_demo: Campaign, canvas: Canvas) -> list[Shot]:
    """The demo's scenes on the pixels of its cube."""
    archive = yaml.safe_load(finished_demo.file.read_text())["archives"]["s2"]
    folder = finished_demo.file.parent / archive["path"]
    return reference.read_shots(folder, archive["bands"], archive["mask"]["clear"], canvas)


def explained(campaign: Campaign, place: tuple[float, float], time: str) -> dict[str, Any]:
    """What the command line says of a place in the demo's CRS."""
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(*place)
    arguments = ("--lon", f"{lon:.9f}", "--lat", f"{lat:.9f}", "--time", time, "--json")
    done = call_cli("explain", campaign.run.newest_cube, *arguments)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def cell_of(place: tuple[float, float], canvas: Canvas, cell_px: int = 16) -> Any:
    """The pixels of the canvas under the cell that holds a place."""
    y = int((canvas.north - place[1]) / canvas.pixel // cell_px)
    x = int((place[0] - canvas.west) / canvas.pixel // cell_px)
    return np.s_[y * cell_px : (y + 1) * cell_px, x * cell_px : (x + 1) * cell_px]


def test_a_place_seen_twice_names_the_acquisition_that_was_clear(
    finished_demo: Campaign, canvas: Canvas, shots: list[Shot]
) -> None:
    """Two tiles overlap there in July: one acquisition is clear, the other one cloudy."""
    answer = explained(finished_demo, LOOKED_TWICE, "2023-07-15")
    july = [shot for shot in shots if shot.time.month == 7]
    in_fact = reference.clear_scenes(july, cell_of(LOOKED_TWICE, canvas))
    clear, cloudy = (next(scene.id for scene in SCENES if scene.take is take) for take in (JUL_WEST, JUL_EAST))
    named = {scene["id"] for scene in answer["scenes"]}
    assert clear in named
    assert cloudy not in named
    acquisitions = {shot.acquisition for shot in july if shot.id in in_fact}
    assert {scene["acquisition"] for scene in answer["scenes"]} == acquisitions
    assert answer["n_obs"] == len(acquisitions)
    reasons = {scene["id"]: scene["reason"] for scene in answer["scenes_not_used"]}
    assert reasons[cloudy] == NOTHING_CLEAR
    assert set(reasons) | named == {shot.id for shot in july}
    # its shard reaches down to the torn band
    assert answer["status"] == "valid_incomplete"
    assert "does not decode" in reasons[TORN.id]


def test_two_items_of_one_acquisition_count_once(finished_demo: Campaign, canvas: Canvas, shots: list[Shot]) -> None:
    """In June both tiles of each datatake hold the place: the first one of each acquisition has given the pixels."""
    answer = explained(finished_demo, LOOKED_TWICE, "2023-06-30T23:59:59")
    june = [shot for shot in shots if shot.time.month == 6]
    in_fact = reference.clear_scenes(june, cell_of(LOOKED_TWICE, canvas))
    twins = {scene.id for scene in SCENES if scene.take is JUN_CLEAR}
    assert twins <= in_fact, "both items show the place clear"
    named = {scene["id"] for scene in answer["scenes"]}
    assert len(named & twins) == 1
    acquisitions = {shot.acquisition for shot in june if shot.id in in_fact}
    assert len(in_fact) > len(acquisitions)
    assert answer["n_obs"] == len(acquisitions) == len(answer["scenes"])
    assert {scene["acquisition"] for scene in answer["scenes"]} == acquisitions
    assert {scene["id"] for scene in answer["scenes_not_used"]} == {shot.id for shot in june} - named
    overcast = {scene.id for scene in SCENES if scene.take is JUN_OVERCAST}
    assert not overcast & named


def test_n_obs_has_no_seam_where_tiles_overlap(finished_demo: Campaign, canvas: Canvas, shots: list[Shot]) -> None:
    """Wherever both tiles of JUN_CLEAR see a cell, the acquisition is one, whatever the other dates add."""
    june = [shot for shot in shots if shot.time.month == 6]
    n_obs = reference.open_zone(finished_demo.run.newest_cube, ZONE)["n_obs"][0][canvas.cells]
    first_col = cell_of((EAST.west_m + 1, WEST.north_m - 5000), canvas)[1].start // 16
    last_col = cell_of((WEST.west_m + 10_239, WEST.north_m - 5000), canvas)[1].start // 16
    row = cell_of((EAST.west_m, WEST.north_m - 5000), canvas)[0].start // 16
    assert last_col - first_col > 10
    for col in range(first_col, last_col + 1):
        cell = np.s_[row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
        scenes = reference.clear_scenes(june, cell)
        acquisitions = {shot.acquisition for shot in june if shot.id in scenes}
        assert n_obs[row, col] == len(acquisitions)
        assert len(scenes) > len(acquisitions)


def test_every_cell_of_a_row_names_what_the_rasters_show(
    finished_demo: Campaign, canvas: Canvas, shots: list[Shot]
) -> None:
    """Without the command line, across the whole cube: tiles, overlap, swath edge, clouds and the torn band."""
    cube = Cube(finished_demo.run.newest_cube)
    rows, columns = canvas.cells
    row = cell_of(TORN_AND_CLEAR, canvas)[0].start // 16
    shares: set[float] = set()
    for t, month in enumerate((6, 7)):
        inside = [shot for shot in shots if shot.time.month == month]
        for col in range(0, columns.stop - columns.start, 7):
            answer = cube.explain(Cell(zone=ZONE, t=t, y=rows.start + row, x=columns.start + col))
            unreadable = {s["id"] for s in answer["scenes_not_used"] if "does not decode" in s["reason"]}
            assert unreadable <= {TORN.id}
            cell = np.s_[row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
            clear = reference.clear_scenes([shot for shot in inside if shot.id not in unreadable], cell)
            named = {scene["id"] for scene in answer["scenes"]}
            acquisition = {shot.id: shot.acquisition for shot in inside}
            assert named <= clear
            assert {acquisition[i] for i in named} == {acquisition[i] for i in clear}
            assert answer["n_obs"] == len({acquisition[i] for i in clear})
            whole = [shot.clear[cell] for shot in inside if not shot.undecodable.any()]
            share = np.logical_or.reduce(whole).mean()
            assert answer["shares_of_frames"] == {"s2": [pytest.approx(share, abs=1e-4)]}
            shares.add(float(share))
    assert min(shares) == 0
    assert max(shares) == 1
    assert len(shares) > 2, "some cells are clear in part"


def test_a_scene_that_could_not_be_read_is_named_with_its_reason(finished_demo: Campaign) -> None:
    for place, status in ((TORN_AND_CLOUDY, "failed"), (TORN_AND_CLEAR, "valid_incomplete")):
        answer = explained(finished_demo, place, "2023-07-15")
        assert answer["status"] == status
        reasons = {scene["id"]: scene["reason"] for scene in answer["scenes_not_used"]}
        assert f"{TORN.torn_band}.tif does not decode" in reasons[TORN.id]
        assert (answer["norm"] is None) is (status == "failed")


def test_the_answer_leads_back_to_every_byte(finished_demo: Campaign) -> None:
    answer = explained(finished_demo, LOOKED_TWICE, "2023-06-15")
    run, archive = finished_demo.run, finished_demo.file.parent / "archive" / "sentinel2"
    for scene in answer["scenes"]:
        item = json.loads((archive / scene["id"] / f"{scene['id']}.json").read_text())
        offset = 0 if item["properties"]["earthsearch:boa_offset_applied"] else -1000
        assert scene["offset"] == offset
        assert len(scene["sha256"]) == 64
        assert scene["resampling"] == dict.fromkeys(["B02", "B03", "B04", "B08"], "copied") | {"SCL": "repeated 2 x 2"}
    assert answer["weights_sha256"] == hashlib.sha256(run.weights("s2_mosaiks").read_bytes()).hexdigest()
    assert answer["preprocessing"]["archives"]["s2"]["bands"] == ["B02", "B03", "B04", "B08"]
    assert answer["cell"]["window"] == ["2023-06-01T00:00:00Z", "2023-07-01T00:00:00Z"]
    centre = answer["cell"]["centre"]
    assert max(abs(centre[0] - LOOKED_TWICE[0]), abs(centre[1] - LOOKED_TWICE[1])) <= answer["cell"]["size"] / 2
    assert answer["made"]["host"]
    assert set(answer["arrays"]) == {"embedding", "scale", "status", "n_obs"}
    packed = {one.sha256: (part / one.path, one) for part, record in scan_records(run) for one in record.arrays}
    for name, digest in answer["arrays"].items():
        pack, stored = packed[digest]
        assert stored.array == name
        data = pack.read_bytes()[stored.offset : stored.offset + stored.size]
        assert hashlib.sha256(data).hexdigest() == digest
        # in the cube its chunks stand in an object, without the index at its end
        index = Cube(run.newest_cube).objects(ZONE, name).layout.member_index_bytes
        assert any(data[:-index] in path.read_bytes() for path in (run.newest_cube / ZONE / name).glob("c.*"))


def test_people_get_the_same_answer_as_programs(finished_demo: Campaign) -> None:
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(*LOOKED_TWICE)
    where = ("--lon", f"{lon:.9f}", "--lat", f"{lat:.9f}", "--time", "2023-07-15")
    done = call_cli("explain", finished_demo.run.newest_cube, *where)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == explained(finished_demo, LOOKED_TWICE, "2023-07-15")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"--lon": "11.5"}, ["outside of", "11.5"], id="place"),
        pytest.param({"--lat": "95"}, ["95"], id="no such latitude"),
        pytest.param({"--time": "2022-01-01"}, ["no window holds 2022-01-01", "2023-06-01"], id="too early"),
        pytest.param({"--time": "2023-08-01"}, ["no window holds 2023-08-01"], id="too late"),
        pytest.param({"--time": "tomorrow"}, ["tomorrow", "2023-06-15"], id="no time"),
        pytest.param({"--layer": "s1"}, ["no layer s1", "s2_mosaiks"], id="layer"),
    ],
)
def test_a_wrong_request_is_one_clear_line(finished_demo: Campaign, changed: dict[str, str], said: list[str]) -> None:
    asked = {"--lon": "7.6", "--lat": "50.87", "--time": "2023-06-15"} | changed
    done = call_cli("explain", finished_demo.run.newest_cube, *(word for pair in asked.items() for word in pair))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(words in done.stderr for words in said), done.stderr


def test_what_is_not_a_cube_is_said_so(tmp_path: Path) -> None:
    done = call_cli("explain", tmp_path, "--lon", "7", "--lat", "50", "--time", "2023-06-15")
    assert done.returncode == 2
    assert f"{tmp_path}: not a cube" in done.stderr


def test_the_swath_edge_is_in_the_demo(shots: list[Shot]) -> None:
    """What the row test above relies on: scenes without data in part of their tile."""
    edges = [shot for shot in shots if shot.id in {scene.id for scene in SCENES if scene.take is JUN_EDGE}]
    assert any((shot.covered & ~shot.data).any() for shot in edges)
