"""What is taken from a base that may be damaged, or made by somebody else: records name files, and are not believed."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Campaign

from embedcube.campaign.base import Base
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import CONTRIBUTIONS, PartWriter, Record, StoredObject, recorded_recipes
from embedcube.campaign.readable import read_code, readable
from embedcube.campaign.run_folder import RunDir
from embedcube.consolidate import adopt as adopting
from embedcube.consolidate.adopt import Adopted, adopt_all
from embedcube.consolidate.offers import Offer, offers_of_cube, offers_of_parts
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.prepare.fit import _of_base
from embedcube.uses import merge
from embedcube.uses.merge import _unlike_none

RECIPES = ["a" * 64, "b" * 64]
KEY = "c.0.0.{}"


def record_of(number: int, objects: tuple[StoredObject, ...], packed: bytes, offset: int) -> Record:
    return Record(
        shard=f"one/grid t0 y0 x{number}", recipe=RECIPES[number], objects=objects, scenes=(), quarantined=(),
        refused="", contributions_offset=offset, contributions_size=len(packed), shares_size=0,
        contributions_sha256=hashlib.sha256(packed).hexdigest(), counts={}, seconds={}, read_bytes=0, energy_j=None,
        peak_bytes=0, started="", finished="", host="h", device="cpu", attempt="x", rank=0, code_version="", job="",
        container="",
    )  # fmt: skip


def base_in(folder: Path, change: Callable[[Record], Record] = lambda record: record) -> Base:
    """A run folder with a part of two shards; `change` is made to the record of the first."""
    run = RunDir(folder)
    writer = PartWriter(run.part(0, "x", 0))
    for number in range(2):
        objects = writer.write_objects("one/grid", {"status": KEY.format(number)}, {"status": b"%d" % number * 9})
        offset = writer.write_contributions(packed := b"fed%d" % number)
        record = record_of(number, objects, packed, offset)
        writer.write_record(change(record) if number == 0 else record)
    return Base(path=folder, run=run, cube=None, has_parts=True)


def taken(folder: Path, base: Base) -> Adopted:
    adopted = Adopted()
    adopt_all(RunDir(folder), base, set(RECIPES), adopted)
    return adopted


def changed(**facts: Any) -> Callable[[Record], Record]:
    """A record with other facts; `array` and `path` are those of its object."""

    def change(record: Record) -> Record:
        of_object = {name: facts[name] for name in ("array", "path") if name in facts}
        others = {name: value for name, value in facts.items() if name not in of_object}
        return replace(record, objects=(replace(record.objects[0], **of_object),), **others)

    return change


@pytest.mark.parametrize(
    "facts",
    [
        {"path": "/outside"},
        {"path": "../../../../../outside"},
        {"path": "one/../status/c.0.0.0"},
        {"path": "records.jsonl"},
        {"path": "one/grid/scale/c.0.0.0"},
        {"path": "one/grid/status/c.0.0.0\0"},
        {"array": "../../secret"},
        {"contributions_offset": -1},
        {"contributions_offset": 1 << 62},
        {"contributions_size": -5},
    ],
)
def test_a_record_that_names_other_places_costs_its_own_shard(facts: dict[str, Any], tmp_path: Path) -> None:
    base = base_in(tmp_path / "base", changed(**facts))
    before = sorted(tmp_path.rglob("*"))
    adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.absent) == ({RECIPES[1]}, 0)
    [words] = adopted.damaged
    assert "one/grid t0 y0 x0 in " in words
    assert "its record names" in words
    assert recorded_recipes(RunDir(tmp_path / "new")) == {RECIPES[1]}
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.is_relative_to(tmp_path / "new")] == before


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [damage_folder, damage_fifo])
def test_what_is_no_file_costs_its_own_shard(damage: Callable[[Path], None], tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    damage(tmp_path / "base" / "parts/0000/x/0000/one/grid/status/c.0.0.0")
    adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.absent) == ({RECIPES[1]}, 0)
    assert "not a file" in adopted.damaged[0]


def test_what_cannot_be_read_costs_its_own_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_in(tmp_path / "base")
    first = tmp_path / "base" / "parts/0000/x/0000/one/grid/status/c.0.0.0"
    read = readable

    def refused(path: Path) -> Path:
        if path == first:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(adopting, "readable", refused)
    adopted = taken(tmp_path / "new", base)
    assert adopted.recipes == {RECIPES[1]}
    assert adopted.damaged == [f"{first}: cannot be read: Permission denied"]
    (tmp_path / "base" / "parts/0000/x/0000" / CONTRIBUTIONS).unlink()
    assert len(taken(tmp_path / "newer", base).damaged) == 2


def test_what_the_parts_have_lost_is_asked_of_the_cube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_in(tmp_path / "base")
    whole = [*offers_of_parts(base_in(tmp_path / "cube"), set(RECIPES))]
    (tmp_path / "base" / "parts/0000/x/0000/one/grid/status/c.0.0.0").unlink()
    assert taken(tmp_path / "without", base).absent == 1

    def of_cube(_: Base, recipes: set[str]) -> list[Offer]:
        assert recipes == {RECIPES[0]}, "only what the parts have lost"
        return [offer for offer in whole if offer.record.recipe in recipes]

    monkeypatch.setattr(adopting, "offers_of_cube", of_cube)
    adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.absent, adopted.damaged) == (set(RECIPES), 0, [])


def test_of_two_runs_the_second_gives_what_is_damaged_in_the_first(tmp_path: Path) -> None:
    runs = [base_in(tmp_path / name) for name in ("one", "two")]
    victim = tmp_path / "one" / "parts/0000/x/0000/one/grid/status/c.0.0.0"
    victim.chmod(0o644)
    victim.write_bytes(b"changed")
    adopted, seen = Adopted(), dict[str, Any]()
    for base in runs:
        chosen = partial(_unlike_none, base.path, seen, set[str](), adopted)
        adopt_all(RunDir(tmp_path / "new"), base, set(RECIPES), adopted, chosen=chosen)
    assert (adopted.recipes, adopted.damaged, adopted.linked + adopted.copied) == (set(RECIPES), [], 2)


def test_code_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "a.pt2"
    program.write_bytes(b"code")
    assert read_code(program) == b"code"
    monkeypatch.setattr(os, "geteuid", lambda: program.stat().st_uid + 1)
    assert read_code(program) is None


def test_a_cube_that_cannot_be_read_offers_nothing_and_is_named(
    two_zones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cube = tmp_path / "cube.zarr"
    shutil.copytree(two_zones, cube)
    base = Base(path=cube, run=None, cube=cube, has_parts=False)
    recipes = {bytes(recipe).hex() for recipe in Cube(cube).provenance.array("shard_recipe")}
    assert {offer.record.recipe for offer in offers_of_cube(base, recipes)} == recipes
    for path in (cube / "provenance" / "shard_recipe").rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            path.write_bytes(b"changed")
    assert [*offers_of_cube(base, recipes)] == []
    assert f"{cube}: what it has cannot be read, and is embedded again: " in caplog.text


def test_a_layer_that_the_base_has_not_is_fitted_without_a_warning(
    finished_demo: Campaign, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    campaign = load_campaign(finished_demo.file)
    campaign = campaign.model_copy(update={"how": campaign.how.model_copy(update={"base": finished_demo.run.root})})
    assert _of_base(campaign, RunDir(tmp_path), "another") is None
    assert caplog.text == ""
    assert _of_base(campaign, RunDir(tmp_path), "s2_mosaiks")


def inventory(monkeypatch: pytest.MonkeyPatch, *runs: list[tuple[str, str]]) -> list[str]:
    """The digests of a merged inventory; each run has ids and digests of scenes."""
    scenes = [
        [SimpleNamespace(archive="s2", id=one, digest=digest, superseded_by="") for one, digest in run] for run in runs
    ]
    given = iter(scenes)
    monkeypatch.setattr(merge, "read_inventory", lambda *_: next(given))
    campaign: Any = SimpleNamespace(archives={"s2": None}, model_copy=lambda **_: None)
    parts: Any = [
        SimpleNamespace(
            base=SimpleNamespace(path=number), run=None, campaign=campaign, plan=SimpleNamespace(inventory="")
        )
        for number in range(len(runs))
    ]
    return [scene.digest for scene in merge._inventory(campaign, parts)]


def test_scenes_of_one_id_are_told_apart_by_their_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    both, second = [("a", "1"), ("a", "2"), ("b", "3")], [("a", "2"), ("b", "3")]
    assert inventory(monkeypatch, both, second) == inventory(monkeypatch, both, [*reversed(both)]) == ["1", "2", "3"]
    with pytest.raises(RequestError, match="the archive has changed between the runs"):
        inventory(monkeypatch, second, [("a", "2"), ("b", "4")])
    with pytest.raises(RequestError, match="their inventories hold no scene"):
        inventory(monkeypatch, [], [])
