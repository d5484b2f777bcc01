"""Nothing vanishes: wrong bytes are quarantined and their cells say so; a failure that passes leaves no trace."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from tests.conftest import Campaign, call_cli, cube_bytes, read_stored, run_cli
from tests.edge import shim
from tests.edge.scenes import Scene, write_scene
from tests.sources import reference_sentinel2 as reference
from tests.sources.reference_sentinel2 import FAILED, MASKED, NO_DATA, VALID, VALID_INCOMPLETE, Canvas

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import QUARANTINE, RECORDS, scan_records
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import EmbedcubeError, StartAgain, WorkError
from embedcube.testing.demo_sentinel2 import SCENES, TORN_AND_CLEAR, TORN_AND_CLOUDY

# --- the demo's torn band -----------------------------------------------------------------------------

TORN = next(scene for scene in SCENES if scene.torn_band)
DEMO_ZONE = "s2_mosaiks/grid"
JULY = 1


def test_every_cell_of_the_demo_says_what_the_torn_band_has_cost(finished_demo: Campaign) -> None:
    """Where a scene with a block that does not decode lies, all cells are incomplete or failed."""
    zone = reference.open_zone(finished_demo.run.newest_cube, DEMO_ZONE)
    what = yaml.safe_load(finished_demo.file.read_text())
    archive, layer = what["archives"]["s2"], what["layers"]["s2_mosaiks"]
    canvas = Canvas.of_cube(zone, what["grid"]["pixel"])
    shots = reference.read_shots(
        finished_demo.file.parent / archive["path"], archive["bands"], archive["mask"]["clear"], canvas
    )
    assert [shot.id for shot in shots if shot.undecodable.any()] == [TORN.id]
    for t, month in enumerate((6, 7)):
        n_obs, status = reference.counts_and_status(
            [shot for shot in shots if shot.time.month == month],
            cell_px=layer["cell_px"],
            min_valid=0.5,
        )
        np.testing.assert_array_equal(zone["status"][t][canvas.cells], status)
        np.testing.assert_array_equal(zone["n_obs"][t][canvas.cells], n_obs)
        touched = bool(np.isin(status, (FAILED, VALID_INCOMPLETE)).any())
        assert touched is (t == JULY), "the torn scene is of July"
    july = zone["status"][JULY]
    assert july[cell_at(zone, TORN_AND_CLOUDY)] == FAILED
    assert july[cell_at(zone, TORN_AND_CLEAR)] == VALID_INCOMPLETE
    assert (july == VALID).any()
    assert (july == MASKED).any()


def cell_at(zone: Any, place: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the cell whose centre is nearest to a place."""
    return int(np.abs(zone["y"][:] - place[1]).argmin()), int(np.abs(zone["x"][:] - place[0]).argmin())


def test_the_demos_torn_scene_is_quarantined_with_its_reason(finished_demo: Campaign) -> None:
    answer = json.loads(finished_demo.cli("status", "--json"))
    assert list(answer["quarantined"]) == [TORN.id]
    assert f"{TORN.torn_band}.tif does not decode" in answer["quarantined"][TORN.id]
    lines = quarantine_lines(finished_demo.run)
    assert {line["scene"] for line in lines} == {TORN.id}
    assert {line["shard"].split()[1] for line in lines} == {f"t{JULY}"}
    assert len({(line["shard"], line["recipe"]) for line in lines}) == len(lines), "one line for each record"
    plan = read_plan(load_campaign(finished_demo.file), finished_demo.run)
    missed = {line["shard"] for line in lines if line["recipe"] in set(read_recipes(finished_demo.run, plan))}
    assert missed == {line["shard"] for line in lines}, "all shards that would have read it have missed it in the end"


def test_an_error_budget_of_nothing_fails_and_names_the_scene(finished_demo: Campaign, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(finished_demo.file, campaign.file)
    shutil.copytree(finished_demo.run.root.parent, tmp_path / "runs", symlinks=True)
    archive = finished_demo.file.parent / "archive" / "sentinel2"

    def strict(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(archive)
        document.setdefault("how", {})["error_budget"] = 0

    campaign.change(strict)
    done = call_cli("embed", campaign.file)
    assert done.returncode == 1, done.stderr
    assert TORN.id in done.stderr
    assert "how.error_budget allows 0%" in done.stderr
    with pytest.raises(WorkError, match=TORN.id):
        campaign.cli("consolidate")
    campaign.change(lambda document: document["how"].update(error_budget=0.1))
    campaign.cli("embed")


def quarantine_lines(run: RunDir) -> list[dict[str, Any]]:
    """Every line of every part."""
    return [
        json.loads(line) for path in run.parts.glob(f"*/*/*/{QUARANTINE}") for line in path.read_text().splitlines()
    ]


# --- every way in which bytes can be wrong --------------------------------------------------------------

SHARD_PX, CELL_PX = 128, 16
WEST, NORTH = 400_640.0, 5_600_000.0
"""a corner of the lattice of shards"""
INSET_PX = CELL_PX
"""by which a faulty scene is smaller than its shard on each side: its neighbours do not need it"""
EDGE_PX = SHARD_PX + 2 * CELL_PX + CELL_PX // 2
"""where the data of the scene at a swath's edge ends"""


def _nothing(_: Path) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One scene that goes wrong."""

    reason: str
    """in what the quarantine says"""
    before: Callable[[Path], None] = _nothing
    """done to the scene's folder before it is indexed"""
    after: Callable[[Path], None] = _nothing
    """done to the scene's folder after it was indexed"""
    pixels: int | None = None
    """the value of all pixels"""
    mask: int | None = None
    """the class of all pixels"""
    driver: str = "GTiff"


def _truncate(folder: Path) -> None:
    path = folder / "B02.tif"
    os.truncate(path, path.stat().st_size // 2)


def _replace(folder: Path) -> None:
    path = folder / "B02.tif"
    path.write_bytes(path.read_bytes() + b"a later delivery")


def _catalogue_other_size(folder: Path) -> None:
    """As a broken download looks: the item knows how long the file should be."""
    path = folder / f"{folder.name}.json"
    item = json.loads(path.read_text())
    item["assets"]["B02"]["file:size"] = (folder / "B02.tif").stat().st_size + 1000
    path.write_text(json.dumps(item))


def _drop_band(folder: Path) -> None:
    path = folder / f"{folder.name}.json"
    item = json.loads(path.read_text())
    del item["assets"]["B02"]
    path.write_text(json.dumps(item))
    (folder / "B02.tif").unlink()


def _garble(folder: Path) -> None:
    """Other bytes in the middle of a block, at the same size."""
    path = folder / "B02.tif"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path.write_bytes(data)


FAULTS = {
    "no_band": Fault(before=_drop_band, reason="the item has no file of this band"),
    "not_as_catalogued": Fault(before=_catalogue_other_size, reason="its catalogue says"),
    "zeros": Fault(pixels=0, reason="B02.tif is empty where SCL has data"),
    "zeros_in_mask": Fault(mask=0, reason="SCL.tif is empty where all bands have data"),
    "gone": Fault(after=lambda folder: (folder / "B02.tif").unlink(), reason="B02.tif is gone since it was indexed"),
    "mask_gone": Fault(after=lambda folder: (folder / "SCL.tif").unlink(), reason="SCL.tif is gone since"),
    "folder_gone": Fault(after=shutil.rmtree, reason="B02.tif is gone since it was indexed"),
    "cut_short": Fault(after=_truncate, reason="when it was indexed"),
    "cut_short_jp2": Fault(driver="JP2OpenJPEG", after=_truncate, reason="when it was indexed"),
    "replaced": Fault(after=_replace, reason="when it was indexed"),
    "garbled": Fault(after=_garble, reason="B02.tif does not decode"),
}
FOUND_BY_INDEX = ["no_band", "not_as_catalogued"]


def _bands(rows: int, cols: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "B02": rng.integers(500, 3000, (rows, cols)).astype(np.uint16),
        "SCL": np.full((rows // 2, cols // 2), 4, dtype=np.uint8),
    }


def _write_faulty_archive(archive: Path) -> None:
    """A shard for each fault, with its scene inside, and one good scene that sees the upper half of all shards."""
    for i, name in enumerate(FAULTS):
        fault, bands = FAULTS[name], _bands(SHARD_PX - 2 * INSET_PX, SHARD_PX - 2 * INSET_PX, i)
        if fault.pixels is not None:
            bands["B02"][:] = fault.pixels
        if fault.mask is not None:
            bands["SCL"][:] = fault.mask
        layout: dict[str, Any] = {"blockxsize": 64, "blockysize": 64}
        if fault.driver != "GTiff":
            layout |= {"driver": fault.driver, "compress": None, "tiled": None, "quality": 100, "reversible": True}
        folder = write_scene(
            archive,
            Scene(
                id=name, time="2023-06-05T10:00:00Z", datatake=f"take_{name}",
                west=WEST + (i * SHARD_PX + INSET_PX) * 10, north=NORTH - INSET_PX * 10, bands=bands,
            ),
            **layout,
        )  # fmt: skip
        fault.before(folder)
    good = _bands(SHARD_PX // 2, SHARD_PX * len(FAULTS), 99)
    write_scene(archive, Scene(id="good", time="2023-06-15T10:00:00Z", west=WEST, north=NORTH, bands=good))
    # east of them, a scene that ends at its swath's edge: mask and bands alike
    edge = _bands(SHARD_PX, 2 * SHARD_PX, 98)
    edge["B02"][:, EDGE_PX:] = 0
    edge["SCL"][:, EDGE_PX // 2 :] = 0
    east = WEST + len(FAULTS) * SHARD_PX * 10
    write_scene(archive, Scene(id="edge", time="2023-06-15T10:00:00Z", west=east, north=NORTH, bands=edge))


def small_campaign(folder: Path, archive: Path, *, last: str = "plan", **how: Any) -> Campaign:
    """A campaign over `archive` with shards of one chip of 128 px, prepared up to the stage `last`."""
    campaign = Campaign(folder / "campaign.yaml")
    document = {
        "campaign": "small",
        "archives": {
            "s2": {"source": "sentinel2", "path": str(archive), "bands": ["B02"], "mask": {"band": "SCL", "clear": [4]}}
        },
        "grid": {"crs": "EPSG:32632", "pixel": 10},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {
            "s2_mosaiks": {
                "archives": ["s2"], "backbone": {"name": "mosaiks", "filters": 2},
                "chip_px": SHARD_PX + 2, "halo_px": 1, "cell_px": CELL_PX, "shard_chips": 1, "batch": 2,
            }
        },
        "how": {"ranks": 1, "threads": 1, **how},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    for verb in ("index", "fit", "plan"):
        campaign.cli(verb)
        if verb == last:
            break
    return campaign


@dataclass(frozen=True)
class Faulty:
    """A campaign over every fault at once."""

    campaign: Campaign
    indexed: dict[str, Any]
    """what `index` said"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Indexed, then harmed, then embedded to the end."""
    folder = tmp_path_factory.mktemp("faulty")
    _write_faulty_archive(folder / "archive")
    campaign = small_campaign(folder, folder / "archive", error_budget=1.0, read_attempts=2)
    indexed = json.loads(campaign.cli("index", "--json"))
    for name, fault in FAULTS.items():
        fault.after(folder / "archive" / name)
    campaign.cli("embed")
    campaign.cli("consolidate")
    return Faulty(campaign, indexed)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_quarantined_and_its_cells_say_so(faulty: Faulty, name: str) -> None:
    reasons = {line["reason"] for line in quarantine_lines(faulty.campaign.run) if line["scene"] == name}
    assert reasons, f"{name} is not quarantined"
    assert all(FAULTS[name].reason in reason for reason in reasons), reasons
    zone = reference.open_zone(faulty.campaign.run.newest_cube, DEMO_ZONE)
    side = SHARD_PX // CELL_PX
    here = shards_at(zone, list(FAULTS).index(name))
    upper = np.arange(side)[:, None] < side // 2
    within = np.zeros((side, side), dtype=bool)
    within[1:-1, 1:-1] = True
    expected = np.where(upper, np.where(within, VALID_INCOMPLETE, VALID), np.where(within, FAILED, NO_DATA))
    np.testing.assert_array_equal(zone["status"][here], expected)
    np.testing.assert_array_equal(zone["n_obs"][here], np.broadcast_to(upper, (side, side)).astype(int))


def shards_at(zone: Any, number: int, count: int = 1) -> tuple[int, slice, slice]:
    """Window and cells of some shards beside each other, from shard `number` on."""
    side, x, y = SHARD_PX // CELL_PX, WEST + (number * SHARD_PX + CELL_PX / 2) * 10, NORTH - CELL_PX / 2 * 10
    [row], [col] = np.flatnonzero(zone["y"][:] == y), np.flatnonzero(zone["x"][:] == x)
    return 0, slice(int(row), int(row) + side), slice(int(col), int(col) + count * side)


def test_cells_beside_the_shards_are_not_processed(faulty: Faulty) -> None:
    """Arrays begin on the border of a block of shards."""
    zone = reference.open_zone(faulty.campaign.run.newest_cube, DEMO_ZONE)
    beside = np.ones(zone["status"].shape, dtype=bool)
    beside[shards_at(zone, 0, len(FAULTS) + 2)] = False
    assert beside.any()
    for name in ("status", "n_obs"):
        assert not zone[name][:][beside].any()


def test_the_good_scenes_of_a_faulty_archive_are_not_quarantined(faulty: Faulty) -> None:
    assert {line["scene"] for line in quarantine_lines(faulty.campaign.run)} == set(FAULTS)


def test_index_names_what_it_finds_unusable(faulty: Faulty) -> None:
    assert faulty.indexed["scenes"] == len(FAULTS) + 2
    assert sorted(faulty.indexed["unusable"]) == FOUND_BY_INDEX
    assert all("B02" in verdict for verdict in faulty.indexed["unusable"].values())


def test_zeros_where_the_mask_has_no_data_either_are_a_swaths_edge(faulty: Faulty) -> None:
    zone = reference.open_zone(faulty.campaign.run.newest_cube, DEMO_ZONE)
    status = zone["status"][shards_at(zone, len(FAULTS), 2)]
    # the last cell is half seen, and half is enough
    seen = -(-EDGE_PX // CELL_PX)
    assert (status[:, :seen] == VALID).all()
    assert (status[:, seen:] == NO_DATA).all()


# --- what passes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clean:
    """An archive, and what comes of it when nothing goes wrong."""

    archive: Path
    arrays: dict[tuple[str, str], str]
    cube: dict[str, str]


def arrays_of(run: RunDir) -> dict[tuple[str, str], str]:
    """SHA-256 of every array in every pack, by shard and name: what `consolidate` copies into the cube."""
    return {
        (record.shard, one.array): hashlib.sha256(read_stored(part, one)).hexdigest()
        for part, record in scan_records(run)
        for one in record.arrays
    }


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """Two scenes of one place, four shards."""
    folder = tmp_path_factory.mktemp("clean")
    archive = folder / "archive"
    for i in range(2):
        write_scene(
            archive,
            Scene(
                id=f"scene{i}", time=f"2023-06-0{i + 5}T10:00:00Z", west=WEST, north=NORTH,
                bands=_bands(2 * SHARD_PX, 2 * SHARD_PX, i),
            ),
            blockxsize=64, blockysize=64,
        )  # fmt: skip
    campaign = small_campaign(folder, archive)
    campaign.cli("embed")
    campaign.cli("consolidate")
    arrays = arrays_of(campaign.run)
    assert len(arrays) == 4 * 4, "four arrays of four shards"
    return Clean(archive, arrays, cube_bytes(campaign.run.newest_cube))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("which", "call"),
    [
        pytest.param("0,1,2,3,4,5", "", id="six reads in a row"),
        # 21 reads by GDAL open such a file, then come its blocks
        pytest.param("21", "fread", id="one read of a block"),
        pytest.param("0,1", "fread", id="two openings, with good reads by others between them"),
    ],
)
def test_an_error_that_passes_leaves_no_trace(
    clean: Clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, call: str
) -> None:
    """The kernel itself answers EIO to some reads of every file; the rank reads again and makes the same bytes."""
    campaign = small_campaign(tmp_path, clean.archive, read_attempts=6)
    failed = tmp_path / "failed"
    for name, value in shim.failing(which, clean.archive, failed, call=call).items():
        monkeypatch.setenv(name, value)
    campaign.cli("embed")
    hit = Counter(failed.read_text().splitlines())
    assert list(hit.values()) == [len(which.split(","))] * 4, "each of the four files has had its failures"
    assert not quarantine_lines(campaign.run)
    assert arrays_of(campaign.run) == clean.arrays


@pytest.mark.chaos
def test_index_reads_again_what_the_file_system_did_not_give(clean: Clean, tmp_path: Path) -> None:
    """An error that passes makes no verdict; one that stays stops `index`, which says to start again."""
    campaign = small_campaign(tmp_path, clean.archive)
    before = campaign.run.inventory.read_bytes()
    failed = tmp_path / "failed"
    for which, exit_code in (("0", 0), ("all", 75)):
        failed.unlink(missing_ok=True)
        done = run_cli(
            "index",
            campaign.file,
            "--again",
            environment=shim.failing(which, clean.archive, failed, call="fread", process="index"),
        )
        assert done.returncode == exit_code, done.stderr
        assert failed.read_text(), "nothing was made to fail"
        assert campaign.run.inventory.read_bytes() == before
    assert "archives.s2" in done.stderr
    assert "could not be read whole, though its bytes are right" in done.stderr


def test_a_file_that_comes_back_is_read_when_asked(clean: Clean, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(clean.archive, archive)
    campaign = small_campaign(tmp_path, archive, read_attempts=2, error_budget=1.0)
    path = archive / "scene0" / "B02.tif"
    path.rename(tmp_path / "B02.tif")
    campaign.cli("embed")
    assert {line["scene"] for line in quarantine_lines(campaign.run)} == {"scene0"}
    (tmp_path / "B02.tif").rename(path)
    before = records(campaign.run)
    campaign.cli("embed")
    assert records(campaign.run) == before, "a verdict stands until somebody asks again"
    campaign.change(lambda document: document["how"].update(error_budget=0))
    with pytest.raises(WorkError, match=r"1 of 2 scenes cannot be read, how.error_budget allows 0%.*scene0"):
        campaign.cli("embed")
    campaign.cli("embed", "--retry-quarantined")
    campaign.cli("embed")
    campaign.cli("consolidate")
    assert cube_bytes(campaign.run.newest_cube) == clean.cube


@pytest.mark.parametrize(("month", "counts"), [("06", True), ("08", False)], ids=["within", "outside of the windows"])
def test_only_scenes_that_the_plan_needs_count_against_the_error_budget(
    clean: Clean, tmp_path: Path, month: str, counts: bool
) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(clean.archive, archive)
    bands = _bands(2 * SHARD_PX, 2 * SHARD_PX, 7)
    unusable = Scene(id="unusable", time=f"2023-{month}-25T10:00:00Z", west=WEST, north=NORTH, bands=bands)
    _drop_band(write_scene(archive, unusable))
    campaign = small_campaign(tmp_path, archive, error_budget=0)
    assert list(json.loads(campaign.cli("index", "--json"))["unusable"]) == ["unusable"]
    if counts:
        words = (
            "1 of 3 scenes cannot be read, how.error_budget allows 0%; the first is s2/unusable: B02: the item has no"
        )
        for verb in ("index", "plan"):
            assert words in " ".join(campaign.cli(verb).split())
            assert json.loads(campaign.cli(verb, "--json"))["over_budget"].startswith(words)
        for verb in ("embed", "consolidate"):
            with pytest.raises(WorkError, match=words):
                campaign.cli(verb)
        assert not records(campaign.run), "it is known before anything is embedded"
    else:
        campaign.cli("embed")
        campaign.cli("consolidate")
        assert cube_bytes(campaign.run.newest_cube) == clean.cube


@pytest.mark.parametrize(
    ("found_by", "fault"), [("index", _drop_band), ("embed", lambda folder: (folder / "B02.tif").unlink())]
)
def test_scenes_of_two_archives_with_one_id_count_twice(
    clean: Clean, tmp_path: Path, found_by: str, fault: Callable[[Path], None]
) -> None:
    """Two of four scenes are unreadable, and both are called scene0."""
    for name in ("s2", "other"):
        shutil.copytree(clean.archive, tmp_path / name)

    def both(document: dict[str, Any]) -> None:
        document["archives"]["other"] = document["archives"]["s2"] | {"path": str(tmp_path / "other")}
        document["layers"]["s2_mosaiks"]["archives"] = ["s2", "other"]
        document["how"]["error_budget"] = 1.0

    campaign = small_campaign(tmp_path, tmp_path / "s2", read_attempts=2)
    campaign.run.weights("s2_mosaiks").unlink()
    campaign.change(both)
    for verb in ("index", "fit", "plan", "embed"):
        if verb == found_by:
            fault(tmp_path / "s2" / "scene0")
            fault(tmp_path / "other" / "scene0")
        campaign.cli(verb)
    campaign.change(lambda document: document["how"].update(error_budget=0.5))
    campaign.cli("consolidate")
    campaign.change(lambda document: document["how"].update(error_budget=0.49))
    for verb in ("embed", "consolidate"):
        with pytest.raises(WorkError, match=r"2 of 4 scenes cannot be read.*the first is other/scene0: B02"):
            campaign.cli(verb)


@pytest.mark.chaos
@pytest.mark.slow
def test_an_error_that_stays_leaves_the_shards_undone(clean: Clean, tmp_path: Path) -> None:
    """EIO for ever, then a file system that is not mounted, then all is well: only time is lost."""
    archive = tmp_path / "mounted" / "archive"
    shutil.copytree(clean.archive, archive)
    campaign = small_campaign(tmp_path, archive, read_attempts=2)
    done = run_cli("embed", campaign.file, environment=shim.failing("all", archive, tmp_path / "failed"))
    assert done.returncode == 75, done.stderr
    assert "4 of 4 shards are undone" in done.stderr
    assert len((tmp_path / "failed").read_text().splitlines()) >= 4
    assert "Input/output error" in "".join(log.read_text() for log in campaign.run.logs.iterdir())
    assert not records(campaign.run)

    archive.rename(tmp_path / "elsewhere")
    archive.mkdir()
    with pytest.raises(StartAgain, match="4 of 4 shards are undone"):
        campaign.cli("embed")
    assert not records(campaign.run)

    archive.rmdir()
    with pytest.raises(EmbedcubeError, match=str(archive)) as refused:
        campaign.cli("embed")
    assert refused.value.exit_code in (2, 75)
    assert not records(campaign.run)

    (tmp_path / "elsewhere").rename(archive)
    campaign.cli("embed")
    campaign.cli("consolidate")
    assert not quarantine_lines(campaign.run)
    assert cube_bytes(campaign.run.newest_cube) == clean.cube


def records(run: RunDir) -> list[str]:
    """Every line of every part."""
    return [line for path in run.parts.glob(f"*/*/*/{RECORDS}") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("masked", [True, False])
def test_scenes_of_which_none_can_be_read_are_named_by_fit(tmp_path: Path, masked: bool) -> None:
    """Not asked about its mask: the only scene has a band that is cut."""
    bands = _bands(SHARD_PX, SHARD_PX, 1)
    scene = Scene(id="only", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=bands)
    path = write_scene(tmp_path / "archive", scene, blockxsize=64, blockysize=64) / "B02.tif"
    os.truncate(path, path.stat().st_size * 6 // 10)
    campaign = small_campaign(tmp_path, tmp_path / "archive", last="index")
    if not masked:
        campaign.change(lambda document: document["archives"]["s2"].pop("mask"))
        campaign.cli("index")
    done = call_cli("fit", campaign.file)
    assert done.returncode == 1
    assert "1 scene, none could be read: only: B02: only/B02.tif does not decode: " in done.stderr


# --- scenes of which nobody knows where they lie ----------------------------------------------------------


def test_a_broken_item_counts_in_the_budget_and_changes_no_byte(tmp_path: Path) -> None:
    """An Item with one wrong byte costs itself: the cube is that of the other scenes, if the budget allows it."""
    archive = tmp_path / "archive"
    for folder in ("whole", "counted", "allowed"):
        (tmp_path / folder).mkdir()
    for day, name in enumerate(("one", "two"), start=1):
        pixels = _bands(SHARD_PX, SHARD_PX, day)
        scene = Scene(id=name, time=f"2023-06-{day:02d}T10:00:00Z", west=WEST, north=NORTH, bands=pixels)
        write_scene(archive, scene, driver="GTiff")
    whole = small_campaign(tmp_path / "whole", archive, error_budget=0)
    whole.cli("run")
    (archive / "broken.json").write_text('{"type": "Feature", "id"; "broken"}')
    counted = small_campaign(tmp_path / "counted", archive, error_budget=0.3)
    with pytest.raises(WorkError, match=r"0 of 2 scenes cannot be read and 1 of 3 in the inventory .* s2/broken: "):
        counted.cli("run")
    allowed = small_campaign(tmp_path / "allowed", archive, error_budget=0.4)
    allowed.cli("run")
    said = allowed.cli("index")
    assert "broken: broken.json is not JSON: Expecting ':' delimiter" in said
    assert cube_bytes(allowed.run.newest_cube) == cube_bytes(whole.run.newest_cube)
