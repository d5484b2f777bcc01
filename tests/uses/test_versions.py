"""versions: the list, a comparison, one switch of the current one, and what prune frees."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SOUND_PLACE, Campaign, call_cli, cube_bytes

from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import RunDir, point_symlink
from embedcube.campaign.seals import to_line
from embedcube.campaign.verdicts import Verdicts
from embedcube.consolidate.unfinished import remove
from embedcube.consolidate.verify import verify_cube
from embedcube.errors import RequestError, WorkError
from embedcube.uses import versions
from embedcube.uses.versions import prune, versions_of
from embedcube.workers.rounds import Round


@pytest.fixture
def twice(finished: Campaign) -> tuple[Campaign, str, str]:
    """The demo with a second version, of a smaller region; the names of both."""
    first = finished.run.newest_cube.resolve().stem
    finished.change(lambda document: document.update(region=SOUND_PLACE))
    for verb in ("plan", "consolidate"):
        finished.cli(verb)
    return finished, first, finished.run.newest_cube.resolve().stem


def on_disk(folder: Path) -> int:
    """Bytes below a folder, each file once however many names it has."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def by_hand(run: RunDir, *names: str) -> None:
    """Folders that look like finished cubes, one second after the other, each with a STAC."""
    for age, name in enumerate(reversed(names)):
        written = run.cube(name) / "provenance" / "zarr.json"
        written.parent.mkdir(parents=True)
        written.write_text("{}")
        run.catalogue(name).mkdir()
        os.utime(written, (1e9 - age, 1e9 - age))


def test_prune_without_a_name_needs_a_current_version_and_takes_none_that_is_newer(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    by_hand(run, "aa", "bb", "cc")
    with pytest.raises(RequestError, match=r"cube\.zarr: leads to no version"):
        prune(run, (), parts=False, dry_run=False)
    point_symlink(run.newest_cube, run.cube("gone"))
    with pytest.raises(RequestError, match=r"cube\.zarr: leads to no version"):
        prune(run, (), parts=False, dry_run=False)
    point_symlink(run.newest_cube, run.cube("bb"))
    done = prune(run, (), parts=False, dry_run=False)
    assert (done.versions, done.newer) == (("aa",), ("cc",))
    assert sorted(path.name for path in run.cubes.iterdir()) == ["bb-stac", "bb.zarr", "cc-stac", "cc.zarr"]


def test_prune_leaves_what_only_begins_with_the_name_of_a_version(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    by_hand(run, "aa", "aa-good", "aa.old")
    point_symlink(run.newest_cube, run.cube("aa-good"))
    (run.cubes / "aa").mkdir()
    for name in ("aa.preview.zarr", "aa.find"):
        (run.cubes / name).mkdir()
    assert prune(run, ["aa.zarr"], parts=False, dry_run=False).versions == ("aa",)
    kept = ["aa", "aa-good-stac", "aa-good.zarr", "aa.old-stac", "aa.old.zarr"]
    assert sorted(path.name for path in run.cubes.iterdir()) == kept


def test_a_version_that_cannot_be_read_is_a_line_of_the_list(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    by_hand(run, "aa", "bb")
    assert [(one.name, bool(one.damaged)) for one in versions_of(run)] == [("aa", True), ("bb", True)]


def test_parts_are_removed_where_there_is_no_cube_yet(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    part = run.part(0, "x", 0)
    part.mkdir(parents=True)
    remove(part, run)
    assert not part.exists()


def test_versions_are_listed_compared_promoted_and_pruned(twice: tuple[Campaign, str, str]) -> None:
    campaign, first, second = twice
    listed = json.loads(campaign.cli("versions", "--json"))["versions"]
    assert [(one["name"], one["current"], one["shards"]) for one in listed] == [(first, False, 30), (second, True, 2)]
    # the shard that has found a scene of July broken is gone, so the scene is used again
    why = {"unchanged": 1, "other verdict": 1, "gone": 28}
    assert listed[1]["why"] == why
    assert 0 < listed[1]["freed_bytes"] <= listed[1]["bytes"]
    assert f"* {second}" in campaign.cli("versions")
    assert json.loads(campaign.cli("versions", "compare", first, second, "--json")) == {"s2_mosaiks": why}
    for arguments, words in (
        (("prune", second), "is the current version"),
        (("promote", "zzz"), f"there is no version zzz; it has {first}, {second}"),
        (("promote",), "promote takes 1 version"),
    ):
        with pytest.raises(RequestError, match=words):
            campaign.cli("versions", *arguments)
    assert json.loads(campaign.cli("versions", "promote", first[:6], "--json")) == {"current": first}
    assert campaign.run.newest_cube.resolve().stem == first

    whole = cube_bytes(campaign.run.newest_cube, provenance=True)
    before = on_disk(campaign.run.root)
    # it may be one that somebody has finished this moment
    assert json.loads(campaign.cli("versions", "prune", "--json"))["newer"] == [second]
    assert f"removed only if it is named: {second}" in campaign.cli("versions", "prune", "--dry-run")
    said = json.loads(campaign.cli("versions", "prune", second, "--json", "--dry-run"))
    assert (said["versions"], on_disk(campaign.run.root)) == ([second], before)
    done = json.loads(campaign.cli("versions", "prune", second, "--json"))
    assert {key: done[key] for key in done if key != "dry_run"} == {key: said[key] for key in said if key != "dry_run"}
    assert before - on_disk(campaign.run.root) == done["freed"]["bytes"] > 0
    assert not list(campaign.run.cubes.glob(f"{second}*"))
    assert cube_bytes(campaign.run.newest_cube, provenance=True) == whole


def test_a_version_frees_what_no_other_version_shares(finished: Campaign) -> None:
    """The second one has the eastern block of shards, whose objects are those of the first, and one column more."""
    first = finished.run.newest_cube.resolve()
    region = {"bbox": [395_700, 5_629_540, 410_800, 5_640_000], "crs": "EPSG:32632"}
    finished.change(lambda document: document.update(region=region))
    for verb in ("plan", "consolidate"):
        finished.cli(verb)
    second = finished.run.newest_cube.resolve()
    made = sorted(second.glob("*/*/*/c.*"))
    objects = [path for path in made if path.stat().st_nlink == 2]
    assert (len(objects), len(made)) == (4, 8)
    shared = sum(path.stat().st_size for path in objects)
    for listed in json.loads(finished.cli("versions", "--json"))["versions"]:
        assert listed["bytes"] - listed["freed_bytes"] == shared > 0
    before, whole = on_disk(finished.run.root), cube_bytes(second, provenance=True)
    done = json.loads(finished.cli("versions", "prune", "--json"))
    assert done["versions"] == [first.stem]
    assert before - on_disk(finished.run.root) == done["freed"]["bytes"] == done["freed"]["all_bytes"] - shared
    assert cube_bytes(second, provenance=True) == whole
    assert verify_cube(second, lambda *_: None) == []


@pytest.mark.slow
def test_parts_that_the_plan_has_not_are_freed_and_no_others(twice: tuple[Campaign, str, str]) -> None:
    """All shards of both versions lie in the parts; of the first one's only those that the plan has not can go."""
    campaign, first, second = twice
    unplanned = campaign.run.parts / "0000" / "earlier" / "0000"
    [records] = sorted(campaign.run.parts.glob("*/*/*/records.jsonl"))[-1:]
    shutil.copytree(records.parent, unplanned)
    planned = campaign.run.newest_cube.resolve()
    objects = {path.stat().st_ino for path in planned.glob("*/*/*/c.*")}
    lines = records.read_bytes().splitlines(keepends=True)
    planned_now = read_recipes(campaign.run, read_plan(load_campaign(campaign.file), campaign.run))
    others = [line for line in lines if json.loads(line)["recipe"] not in planned_now]
    assert others
    (unplanned / "records.jsonl").write_bytes(b"".join(others))
    before = on_disk(campaign.run.root)
    done = json.loads(campaign.cli("versions", "prune", "--parts", "--json"))
    assert done["versions"] == [first]
    assert not unplanned.exists()
    assert before - on_disk(campaign.run.root) == done["freed"]["bytes"]
    assert {path.stat().st_ino for path in planned.glob("*/*/*/c.*")} == objects
    assert campaign.run.newest_cube.resolve().stem == second
    assert json.loads(campaign.cli("status", "--json"))["tasks_left"] == 0


def test_a_version_that_is_wrong_stays_where_it_is(twice: tuple[Campaign, str, str]) -> None:
    campaign, first, second = twice
    victim = sorted(campaign.run.cube(first).glob("*/*/status/c.*"))[-1]
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(WorkError, match=r"findings, the first: .*; the current version stays"):
        campaign.cli("versions", "promote", first)
    assert campaign.run.newest_cube.resolve().stem == second
    done = call_cli("versions", campaign.file, "promote", first, "--unverified")
    assert (done.returncode, campaign.run.newest_cube.resolve().stem) == (0, first)


def test_records_of_a_round_between_the_first_and_the_last_stay(
    finished: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them `verify` could not derive the verdicts again."""
    records = sorted(finished.run.parts.glob("*/*/*/records.jsonl"))[0]
    between = finished.run.part(0, "between", 0)
    shutil.copytree(records.parent, between)
    line = json.loads(records.read_bytes().splitlines()[0])
    del line["checksum"]
    (between / "records.jsonl").write_bytes(to_line(line | {"recipe": "e" * 64}))
    assert prune(finished.run, (), parts=True, dry_run=True).parts == 1
    of_verify = vars(versions)["rounds"]

    def with_one_more(*about: Any) -> Iterator[Round]:
        yield from of_verify(*about)
        yield Round(verdicts=Verdicts(), recipes=frozenset({"e" * 64}), complete=True)

    monkeypatch.setattr(versions, "rounds", with_one_more)
    assert prune(finished.run, (), parts=True, dry_run=True).parts == 0
