"""`index` of an archive that has grown: the bytes of an inventory from nothing; unchanged files are not looked into."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tests.conftest import Campaign
from tests.edge.scenes import Scene, two_bands_of, write_scene

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import RequestError
from embedcube.prepare.index import index
from embedcube.sources.catalog import unchanged
from embedcube.sources.catalog.digests import Look

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


@pytest.mark.parametrize(
    "change",
    [other_header, other_item, other_band, no_file, a_folder, no_scene, a_mask, newer_baseline, same_id],
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
