"""What is taken from a base that may be damaged, or made by somebody else: records name files, and are not believed."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Campaign, read_stored

from embedcube.campaign.base import Base
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PACK, PartWriter, Record, Stored, scan_records
from embedcube.campaign.readable import read_code
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.consolidate import adopt as adopting
from embedcube.consolidate import stored as reading
from embedcube.consolidate.adopt import Adopted, adopt_all
from embedcube.consolidate.assemble import Kind, Member, Planned, assembled
from embedcube.consolidate.offers import Offer, offers_of_cube, offers_of_parts
from embedcube.cube.arrays import layer_specs, object_key
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.grid import ShardLayout
from embedcube.prepare.fit import _of_base
from embedcube.uses import merge
from embedcube.uses.merge import _unlike_none
from embedcube.zones import ObjectShape

RECIPES = ["a" * 64, "b" * 64]


def record_of(number: int, arrays: tuple[Stored, ...], fed: Stored) -> Record:
    return Record(
        shard=f"one/grid t0 y0 x{number}", recipe=RECIPES[number], arrays=arrays, fed=fed, scenes=(), quarantined=(),
        refused="", contributions_size=fed.size, counts={}, seconds={}, read_bytes=0, energy_j=None, peak_bytes=0,
        started="", finished="", host="h", device="cpu", attempt="x", rank=0, code_version="", job="", container="",
    )  # fmt: skip


def bytes_of(number: int) -> tuple[bytes, bytes]:
    """The bytes of the array of a shard, and of what fed it."""
    return b"%d" % number * 9, b"fed%d" % number


def base_in(folder: Path, change: Callable[[Record], Record] = lambda record: record, ranks: int = 1) -> Base:
    """A run folder with two shards, of one rank or of one each; `change` is made to the record of the first."""
    run = RunDir(folder)
    writers = [PartWriter(run.part(0, "x", rank)) for rank in range(ranks)]
    for number in range(2):
        writer, (status, fed) = writers[number % ranks], bytes_of(number)
        record = record_of(number, *writer.write_shard({"status": status}, fed))
        writer.write_records([change(record) if number == 0 else record])
    for writer in writers:
        writer.close()
    return Base(path=folder, run=run, cube=None, has_parts=True)


def pack_of(folder: Path, rank: int = 0) -> Path:
    """The pack of a rank of `base_in`."""
    return RunDir(folder).part(0, "x", rank) / PACK


def flip(path: Path, at: int) -> None:
    """Flip a bit of one byte of a file, in place."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def taken(folder: Path, base: Base) -> Adopted:
    """What a run folder takes from a base; all that it has from there is as it should be."""
    adopted = Adopted()
    adopt_all(RunDir(folder), base, set(RECIPES), adopted)
    assert found_in(folder).keys() == adopted.recipes
    return adopted


def found_in(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """The bytes of each shard of a run folder, as its records name them."""
    found = {
        record.recipe: (read_stored(part, record.arrays[0]), read_stored(part, record.fed))
        for part, record in scan_records(RunDir(folder))
    }
    assert found == {RECIPES[number]: bytes_of(number) for number in range(2) if RECIPES[number] in found}
    return found


def changed(**facts: Any) -> Callable[[Record], Record]:
    """A record with other facts: those of its array, of what fed it (`fed`), or its own."""

    def change(record: Record) -> Record:
        of_array = {name: facts[name] for name in ("array", "path", "offset", "size") if name in facts}
        others = {name: value for name, value in facts.items() if name not in of_array}
        if "fed" in others:
            others["fed"] = replace(record.fed, **others["fed"])
        return replace(record, arrays=(replace(record.arrays[0], **of_array),), **others)

    return change


@pytest.mark.parametrize(
    "facts",
    [
        {"path": "/outside"},
        {"path": f"/{PACK}"},
        {"path": f"../{PACK}"},
        {"path": "../../../../../outside"},
        {"path": "0/one/../status/c.0.0.0"},
        {"path": "records.jsonl"},
        {"path": "one/grid/status/c.0.0.0"},
        {"path": "0/one/grid/scale/c.0.0.0"},
        {"path": "0/one/grid/status/c.0.0.0\0"},
        {"path": "0/one/grid/status/zarr.json"},
        {"array": "../../secret"},
        {"offset": -1},
        {"offset": 1 << 62},
        {"size": -5},
        {"fed": {"path": f"../{PACK}"}},
        {"fed": {"array": "status"}},
        {"fed": {"offset": -1}},
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


@pytest.mark.parametrize("facts", [{"offset": 1}, {"size": 8}, {"offset": 1 << 40}, {"fed": {"offset": 0}}])
def test_a_record_that_names_other_bytes_costs_its_own_shard(facts: dict[str, Any], tmp_path: Path) -> None:
    adopted = taken(tmp_path / "new", base_in(tmp_path / "base", changed(**facts)))
    assert (adopted.recipes, adopted.absent) == ({RECIPES[1]}, 0)
    assert re.search("its record (says|speaks of) ", adopted.damaged[0])


@pytest.mark.parametrize("at", [4, len(bytes_of(0)[0]) + 1], ids=["array", "fed"])
def test_a_damaged_byte_costs_its_own_shard(at: int, tmp_path: Path) -> None:
    """The others of the same pack are taken, and share their bytes."""
    base = base_in(tmp_path / "base")
    flip(pack_of(tmp_path / "base"), at)
    adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.absent, adopted.copied) == ({RECIPES[1]}, 0, 0)
    assert adopted.damaged[0].startswith(f"{pack_of(tmp_path / 'base')}: ")


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [damage_folder, damage_fifo])
def test_what_is_no_file_costs_its_own_shards(damage: Callable[[Path], None], tmp_path: Path) -> None:
    base = base_in(tmp_path / "base", ranks=2)
    damage(pack_of(tmp_path / "base"))
    adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.absent) == ({RECIPES[1]}, 0)
    assert "not a file" in adopted.damaged[0]
    assert {path.is_file() for path in (tmp_path / "new").rglob(PACK)} == {True}, "nothing else is linked"


def test_what_a_symlink_names_is_copied(tmp_path: Path) -> None:
    """Nobody keeps what it names, as a hard link does."""
    base = base_in(tmp_path / "base", ranks=2)
    pack = pack_of(tmp_path / "base")
    pack.rename(tmp_path / "elsewhere")
    pack.symlink_to(tmp_path / "elsewhere")
    adopted = taken(tmp_path / "new", base)
    assert (adopted.shards, adopted.copied) == (2, 1)
    assert not any(path.is_symlink() for path in (tmp_path / "new").rglob(PACK))


def test_what_cannot_be_read_costs_its_own_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_in(tmp_path / "base", ranks=2)
    first = pack_of(tmp_path / "base")
    read = reading._read

    def refused(descriptor: int, path: Path, stored: Stored) -> bytes:
        if path == first:
            raise PermissionError(13, "Permission denied", str(path))
        return read(descriptor, path, stored)

    monkeypatch.setattr(reading, "_read", refused)
    adopted = taken(tmp_path / "new", base)
    assert adopted.recipes == {RECIPES[1]}
    assert adopted.damaged == [f"one/grid t0 y0 x0 in {first.parent}: cannot be read: Permission denied"]
    pack_of(tmp_path / "base", 1).unlink()
    adopted = taken(tmp_path / "newer", base)
    assert (adopted.recipes, len(adopted.damaged), adopted.absent) == (set(), 1, 1)


@pytest.mark.parametrize("number", [18, 1, 31])
def test_a_pack_that_cannot_be_linked_is_copied(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the shards that are wanted, and each whole."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    base = base_in(tmp_path / "base")
    with monkeypatch.context() as context:
        context.setattr(os, "link", refuse)
        adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.copied, adopted.lost) == (set(RECIPES), 2, {})
    shutil.rmtree(tmp_path / "base")
    assert found_in(tmp_path / "new").keys() == set(RECIPES)


def test_packs_of_several_bases_keep_their_names_apart(tmp_path: Path) -> None:
    """A run that has taken shards is a base itself: its parts hold a pack of an earlier one, and their own."""
    taken(tmp_path / "second", base_in(tmp_path / "first"))
    second = RunDir(tmp_path / "second")
    assert taken(tmp_path / "third", Base(path=second.root, run=second, cube=None, has_parts=True)).shards == 2
    packs = [path.stat().st_ino for name in ("first", "second", "third") for path in (tmp_path / name).rglob(PACK)]
    assert len(packs) == 3
    assert len(set(packs)) == 1, "one file under three names"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob(PACK)} == {0o444}, "what is shared is not written to"


def damage_byte(path: Path) -> None:
    path.chmod(0o644)
    flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [damage_byte, damage_folder, damage_fifo])
def test_a_damaged_object_of_a_cube_costs_its_own_shards(
    two_zones: Path, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """The others are linked; with the metadata beside them they can be read there without the cube."""
    cube = tmp_path / "cube.zarr"
    shutil.copytree(two_zones, cube)
    provenance = Cube(cube).provenance
    recipes = {bytes(recipe).hex(): row for row, recipe in enumerate(provenance.array("shard_recipe")) if row < 9}
    (zone, t, iy, ix), row = next((place, row) for place, row in provenance.places.items() if row in recipes.values())
    victim = cube / zone / "status" / object_key("status", (t, iy, ix))
    damage(victim)
    run, adopted = RunDir(tmp_path / "new"), Adopted()
    adopt_all(run, Base(path=cube, run=None, cube=cube, has_parts=False), {*recipes}, adopted)
    assert adopted.recipes == {recipe for recipe, number in recipes.items() if number != row}
    assert (adopted.copied, adopted.absent, len(adopted.damaged)) == (0, 0, 1)
    assert f"{victim}: " in adopted.damaged[0]
    shared = [path for path in run.parts.rglob("c.*") if path.is_file()]
    assert shared
    assert {path.stat().st_mode & 0o777 for path in shared} == {0o444}
    shutil.rmtree(cube)
    records = [*scan_records(run)]
    assert {record.recipe for _, record in records} == adopted.recipes
    for part, record in records:
        assert all(len(read_stored(part, stored)) == stored.size for stored in (*record.arrays, record.fed))


def test_what_the_parts_have_lost_is_asked_of_the_cube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_in(tmp_path / "base", ranks=2)
    whole = [*offers_of_parts(base_in(tmp_path / "cube"), set(RECIPES))]
    pack_of(tmp_path / "base").unlink()
    assert taken(tmp_path / "without", base).absent == 1

    def of_cube(_: Base, recipes: set[str]) -> list[Offer]:
        assert recipes == {RECIPES[0]}, "only what the parts have lost"
        return [offer for offer in whole if offer.record.recipe in recipes]

    monkeypatch.setattr(adopting, "offers_of_cube", of_cube)
    adopted = taken(tmp_path / "new", base)
    assert (adopted.recipes, adopted.absent, adopted.damaged) == (set(RECIPES), 0, [])


def test_of_two_runs_the_second_gives_what_is_damaged_in_the_first(tmp_path: Path) -> None:
    runs = [base_in(tmp_path / name) for name in ("one", "two")]
    flip(pack_of(tmp_path / "one"), 4)
    adopted, seen = Adopted(), dict[str, Any]()
    for base in runs:
        chosen = partial(_unlike_none, base.path, seen, set[str](), adopted)
        adopt_all(RunDir(tmp_path / "new"), base, set(RECIPES), adopted, chosen=chosen)
    assert (adopted.recipes, adopted.damaged, adopted.copied) == (set(RECIPES), [], 0)
    assert found_in(tmp_path / "new").keys() == set(RECIPES)


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


def test_bytes_that_are_no_array_of_the_layer_are_named(tmp_path: Path) -> None:
    """They have the digest of their record, so it was recorded so: nothing is written, and the part is named."""
    writer = PartWriter(tmp_path / "part")
    [stored] = writer.write([("status", b"x" * 5000)])
    writer.close()
    layout = ShardLayout(chip_px=8, halo_px=0, cell_px=1, chips=1)
    spec = layer_specs(layout, dimensions=4, encoding="int8")[2]
    kind = Kind(part=spec, member=spec, cube=spec.in_objects(ObjectShape(windows=1, rows=2, cols=2)), cells=8)
    member = Member(at=(0, 1, 0), windows=((0, tmp_path / "part", stored),))
    planned = Planned(target=tmp_path / "cube" / "c.0.0.0", place=(0, 0, 0), kind=kind, members=(member,))
    planned.target.parent.mkdir()
    failure = assembled(planned)
    assert isinstance(failure, WorkError)
    assert str(failure).startswith(f"{tmp_path / 'part' / 'shards.pack'}: status at 0 is no array of this layer")
    assert list(planned.target.parent.iterdir()) == []
