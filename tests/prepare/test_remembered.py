"""`index` of an archive that has grown: the bytes of an inventory from nothing; unchanged files are not looked into."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import rasterio
from tests.conftest import Campaign
from tests.edge.scenes import Scene, two_bands_of, write_scene

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.inventory_rows import Pieces, Rows
from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import RequestError
from embedcube.prepare.index import index
from embedcube.sources import believed
from embedcube.sources.catalog import unchanged
from embedcube.sources.catalog.digests import Look
from embedcube.sources.catalog.files import read_bounded

WEST, NORTH, SIDE = 400_000.0, 5_600_000.0, 160


def write(archive: Path, number: int, **properties: object) -> Path:
    rng = np.random.default_rng(number)
    bands = {band: rng.integers(500, 3000, (SIDE, SIDE)).astype(np.uint16) for band in ("B02", "B03")}
    scene = Scene(
        id=f"scene{number}", time=f"2023-06-{number + 1:02d}T10:00:00Z", west=WEST, north=NORTH, bands=bands,
        properties=properties,
    )  # fmt: skip
    return write_scene(archive, scene, compress="none")


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """Three scenes, indexed; files count as settled at once."""
    monkeypatch.setattr(unchanged, "SETTLED_S", -1.0)
    made = two_bands_of(tmp_path, (WEST, NORTH))
    for number in range(3):
        write(tmp_path / "archive", number)
    index(load_campaign(made.file), made.run)
    return made


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes are read from now on."""
    names: list[str] = []
    at = Look.at

    def noting(path: Path) -> Look:
        names.append(f"{path.parent.name}/{path.name}")
        return at(path)

    monkeypatch.setattr(Look, "at", staticmethod(noting))
    return names


def from_nothing(campaign: Campaign) -> bytes:
    run = RunDir(campaign.file.parent / "other")
    shutil.rmtree(run.root, ignore_errors=True)
    run.root.mkdir()
    index(load_campaign(campaign.file), run)
    return run.inventory.read_bytes()


def extended(campaign: Campaign, *, again: bool = False) -> bytes:
    index(load_campaign(campaign.file), campaign.run, again=again)
    return campaign.run.inventory.read_bytes()


def test_only_new_files_are_looked_into(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    before = campaign.run.inventory.read_bytes()
    write(campaign.file.parent / "archive", 3)
    names = looked_at(monkeypatch)
    found = extended(campaign)
    assert sorted(names) == ["scene3/B02.tif", "scene3/B03.tif"]
    names.clear()
    assert extended(campaign) == found
    assert names == []
    assert extended(campaign, again=True) == found
    assert len(names) == 8
    assert found == from_nothing(campaign) != before


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes of the same number, and the time of before."""
    status = path.stat()
    assert len(data) == status.st_size
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_header(archive: Path) -> None:
    path = archive / "scene1/B02.tif"
    data = bytearray(path.read_bytes())
    data[30_000] ^= 255
    overwrite(path, bytes(data))


def other_item(archive: Path) -> None:
    path = archive / "scene1/scene1.json"
    overwrite(path, path.read_bytes().replace(b"05.09", b"05.10"))


def other_band(archive: Path) -> None:
    path = archive / "scene1/scene1.json"
    path.write_bytes(path.read_bytes().replace(b"./B02.tif", b"./B03.tif"))


def no_file(archive: Path) -> None:
    (archive / "scene1/B02.tif").unlink()


def a_folder(archive: Path) -> None:
    (archive / "scene1/B02.tif").unlink()
    (archive / "scene1/B02.tif").mkdir()


def no_scene(archive: Path) -> None:
    shutil.rmtree(archive / "scene1")


def a_mask(archive: Path) -> None:
    with rasterio.open(
        archive / "scene1/B02.tif.msk", "w", driver="GTiff", height=SIDE, width=SIDE, count=1, dtype="uint8"
    ) as target:
        target.update_tags(INTERNAL_MASK_FLAGS_1="2")
        target.write(np.full((1, SIDE, SIDE), 255, np.uint8))


def newer_baseline(archive: Path) -> None:
    path = write(archive, 1) if not (archive / "scene1").exists() else archive / "scene1"
    shutil.copytree(path, archive / "newer")
    item = json.loads((archive / "newer/scene1.json").read_text())
    item["properties"]["s2:processing_baseline"] = "05.11"
    (archive / "newer/scene1.json").write_text(json.dumps(item | {"id": "newer"}))


def same_id(archive: Path) -> None:
    shutil.copytree(archive / "scene1", archive / "a copy")


def earlier_in_the_pass(archive: Path) -> None:
    """A product of the same pass, before the others: what it is called changes for all."""
    scene = json.loads((archive / "scene1/scene1.json").read_text())
    write(archive, 7, datetime=scene["properties"]["datetime"].replace(":00Z", ":30Z"))


def a_link_to_a_folder(archive: Path) -> None:
    (archive / "linked").symlink_to(shutil.copytree(archive / "scene1", archive.parent / "elsewhere"))


def another_image(archive: Path) -> None:
    """An image of a day of its own, which no Item names, in a folder that held an Item and its images alone."""
    shutil.copy(archive / "scene1/B02.tif", archive / "scene1/T32UNA_20230711T103021_B02.tif")
    shutil.copy(archive / "scene1/B03.tif", archive / "scene1/T32UNA_20230711T103021_B03.tif")


@pytest.mark.parametrize(
    "change",
    [
        other_header,
        other_item,
        other_band,
        no_file,
        a_folder,
        no_scene,
        a_mask,
        newer_baseline,
        same_id,
        earlier_in_the_pass,
        a_link_to_a_folder,
        another_image,
    ],
)
def test_what_changes_is_noticed(campaign: Campaign, change: Callable[[Path], None]) -> None:
    before = campaign.run.inventory.read_bytes()
    change(campaign.file.parent / "archive")
    assert extended(campaign) == from_nothing(campaign) != before


def test_pixels_behind_the_header_are_noticed_too(campaign: Campaign) -> None:
    """A digest of the header does not show them: `index` refuses, as it does without a memory."""
    path = campaign.file.parent / "archive/scene1/B02.tif"
    data = path.read_bytes()
    overwrite(path, data[:40_000] + bytes(len(data) - 40_000))
    with pytest.raises(RequestError, match="1 scenes have other bytes than at the last `embedcube index`"):
        extended(campaign)


def test_what_has_just_changed_is_not_trusted(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a file system may not have gone on before the next change."""
    monkeypatch.setattr(unchanged, "SETTLED_S", 60.0)
    extended(campaign, again=True)
    names = looked_at(monkeypatch)
    extended(campaign)
    assert len(names) == 6


@pytest.mark.parametrize("damage", ["gone", "damaged", "of other code"])
def test_the_memory_may_be_lost(campaign: Campaign, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, names = campaign.run.inventory.read_bytes(), looked_at(monkeypatch)
    if damage == "gone":
        campaign.run.remembered.unlink()
    elif damage == "damaged":
        data = bytearray(campaign.run.remembered.read_bytes())
        data[len(data) // 2] ^= 1
        campaign.run.remembered.write_bytes(data)
    else:
        monkeypatch.setattr("embedcube.campaign.remembered._own_version", lambda: "other")
    assert extended(campaign) == before
    assert len(names) == 6


def test_another_question_is_not_answered_by_the_last_one(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.change(lambda document: document["archives"]["s2"].update(options={"nodata": 7}))
    names = looked_at(monkeypatch)
    assert extended(campaign) == from_nothing(campaign)
    assert len(names) == 12
    scenes = read_inventory(load_campaign(campaign.file), campaign.run)
    assert {asset.nodata for asset in scenes[0].assets} == {7.0}


def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose entries are read from now on."""
    names: list[str] = []
    scandir = os.scandir

    def noting(place: str) -> Iterator[os.DirEntry[str]]:
        names.append(Path(place).name)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", noting)
    return names


def test_of_what_has_not_changed_nothing_is_opened(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Item is read, no folder of an Item listed, and no row of the inventory is made again."""
    write(campaign.file.parent / "archive", 3)
    names, items, rows = listed(monkeypatch), list[str](), list[str]()
    made = Rows.made

    def reading(path: Path, most: int) -> bytes:
        items.append(path.name)
        return read_bounded(path, most)

    def making(self: Rows, pieces: Pieces) -> list[pyarrow.RecordBatch]:
        rows.extend(json.loads(text)["id"] for piece in pieces for text, _ in piece)
        return made(self, pieces)

    monkeypatch.setattr("embedcube.sources.catalog.items.read_bounded", reading)
    monkeypatch.setattr(Rows, "made", making)
    scenes = index(load_campaign(campaign.file), campaign.run)
    assert (names, items) == (["archive", "scene3"], ["scene3.json"])
    # the first one tells the columns
    assert rows == ["scene0", "scene3"]
    assert [scene.assets[0].band for scene in scenes] == ["B02"] * 4
    assert scenes == list(read_inventory(load_campaign(campaign.file), campaign.run))


CHANGES = ("add", "add", "add", "remove", "other_item", "baseline", "copy", "touch", "sidecar")


def change(archive: Path, rng: np.random.Generator) -> None:
    """Change something of an archive by chance."""
    places = sorted(place for place in archive.iterdir() if place.is_dir())
    place = places[rng.integers(len(places))]
    [path] = place.glob("*.json")
    match CHANGES[rng.integers(len(CHANGES))]:
        case "add":
            minutes = int(rng.choice([1, 1, 2, 40, 100]) * rng.integers(1, 20))
            time = datetime.fromisoformat("2023-06-10T10:00:00+00:00") + timedelta(minutes=minutes)
            number = int(rng.integers(1000, 1_000_000))
            facts = {"platform": str(rng.choice(["sentinel-2a", "sentinel-2b", ""])), "s2:mgrs_tile": "32UNA"}
            if rng.random() < 0.5:
                facts |= {"s2:datatake_id": "", "sat:absolute_orbit": str(rng.integers(4, 6))}
            write(archive, number, **facts, datetime=time.isoformat())
        case "remove" if len(places) > 1:
            shutil.rmtree(place)
        case "other_item":
            path.write_text(path.read_text().replace("05.09", "05.1"))
        case "baseline" | "copy" as kind:
            other = shutil.copytree(place, archive / f"{place.name}x{rng.integers(1000)}") / path.name
            if kind == "baseline":
                document = json.loads(other.read_text())
                document["properties"]["s2:processing_baseline"] = str(rng.choice(["05.10", "04.00", "05.11"]))
                other.write_text(json.dumps(document | {"id": other.parent.name}))
        case "touch":
            os.utime(path)
        case "sidecar":
            (place / "B02.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
        case _:
            pass


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_an_archive_that_changes_by_chance(campaign: Campaign, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every change the inventory is that of an `index` from nothing, where few scenes are looked at."""
    monkeypatch.setattr(believed, "_FIRST", 2)
    monkeypatch.setattr(believed, "_SHARE", 3)
    campaign.change(lambda document: document["archives"]["s2"].update(offset=-100))
    rng = np.random.default_rng(seed)
    extended(campaign)
    for _ in range(5):
        for _ in range(rng.integers(1, 4)):
            change(campaign.file.parent / "archive", rng)
        assert extended(campaign) == from_nothing(campaign)
