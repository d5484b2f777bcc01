"""A campaign repeated with a base: what is unchanged comes from there, bytes and records."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SOUND_PLACE, Campaign, call_cli, change_plan, cube_bytes, demo_in

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PACK, Record, Stored, record_lines, record_of, scan_records
from embedcube.campaign.plan import Shard, read_plan, read_recipes, read_shards
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import from_line, to_line
from embedcube.campaign.verdicts import Verdicts
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.kernel.embed import KERNEL_VERSION
from embedcube.workers.rounds import not_held_in_words, recorded

ZONE = "s2_mosaiks/grid"

BROKEN = "S2B_32UMB_20230706_0_L2A"
"""The scene of the demo with a file that does not decode"""


def begun(
    folder: Path, archive: Path, base: Campaign, change: Callable[[dict[str, Any]], None] | None = None
) -> Campaign:
    """A campaign in a folder of its own, with the base's inventory, that names the base's run folder."""
    folder.mkdir()
    campaign = demo_in(folder, archive)
    campaign.change(lambda document: document["how"].update(base=str(base.run.root)))
    if change:
        campaign.change(change)
    campaign.run.root.mkdir(parents=True)
    for name in ("inventory.parquet", "inventory.json"):
        shutil.copy(base.run.root / name, campaign.run.root)
    campaign.cli("fit")
    return campaign


def planned(campaign: Campaign) -> dict[str, Any]:
    """What `plan --json` prints."""
    answer: dict[str, Any] = json.loads(campaign.cli("plan", "--json"))
    return answer


def in_the_first_round(campaign: Campaign) -> list[Shard]:
    """The shards of the plan as they were before any scene was found broken."""
    plan = replace(read_plan(load_campaign(campaign.file), campaign.run), verdicts=Verdicts())
    return [shard for group in read_shards(campaign.run, plan) for shard in group]


def packs(run: RunDir) -> set[int]:
    """The inodes of all packs of a run folder."""
    return {path.stat().st_ino for path in run.parts.rglob(PACK)}


def elsewhere(record: Record) -> Record:
    """A record with the names of packs alone: in a run that took them they lie in a folder."""

    def named(stored: Stored) -> Stored:
        return replace(stored, path=Path(stored.path).name)

    return replace(record, arrays=tuple(map(named, record.arrays)), fed=named(record.fed))


def facts(run: RunDir) -> set[bytes]:
    """All records of a run folder, wherever their bytes lie."""
    return {elsewhere(record).to_line() for _, record in scan_records(run)}


def fact(cube: Path, row: int) -> Record:
    """A record of a cube, wherever its bytes lay."""
    found = record_of(Cube(cube).provenance.rows_of("shard_record", row, row + 1)[0] + b"\n")
    assert found is not None
    return elsewhere(found)


def inodes(cube: Path) -> dict[str, int]:
    cube = cube.resolve()
    return {str(path.relative_to(cube)): path.stat().st_ino for path in cube.glob("*/*/*/c.*")}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, demo_archive: Path, finished_demo: Campaign) -> Campaign:
    """The demo planned and consolidated once more, with the finished one as its base. Do not change it: copy."""
    campaign = begun(tmp_path_factory.mktemp("again") / "run", demo_archive, finished_demo)
    assert {(row["reason"], row["shards"], row["embed"]) for row in planned(campaign)["changes"]} == {
        ("unchanged", 30, 0)
    }
    campaign.cli("consolidate")
    return campaign


def test_nothing_is_embedded_and_the_cube_is_the_same(again: Campaign, finished_demo: Campaign) -> None:
    old, new = finished_demo.run.newest_cube, again.run.newest_cube
    assert cube_bytes(new) == cube_bytes(old)
    assert inodes(new) == inodes(old) != {}, "objects are linked from the cube of the base"
    assert new.resolve().name == old.resolve().name
    assert packs(again.run) == packs(finished_demo.run) != set(), "the bytes of shards are stored once"
    assert facts(again.run) == facts(finished_demo.run), "records as they were"
    assert not [path for path in again.run.parts.iterdir() if path.name != "base"]
    # all that `verify` derives from plan, records and inventory holds, the verdict on the torn scene among it
    assert again.cli("verify", "--recompute", "0").count("nothing found wrong") == 1
    assert fact(new, 0) == fact(old, 0)


def test_a_cube_alone_is_enough(finished_demo: Campaign, demo_archive: Path, tmp_path: Path) -> None:
    """Without its run folder: one that came from another centre. It keeps the weights that were fitted."""
    cube = tmp_path / "elsewhere" / "cube.zarr"
    shutil.copytree(finished_demo.run.newest_cube.resolve(), cube)

    def change(document: dict[str, Any]) -> None:
        document["how"]["base"] = str(cube)

    campaign = begun(tmp_path / "run", demo_archive, finished_demo, change)
    answer = planned(campaign)
    assert [(row["reason"], row["embed"]) for row in answer["changes"]] == [("unchanged", 0)]
    campaign.cli("consolidate")
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(cube)
    assert inodes(campaign.run.newest_cube) == inodes(cube)


@pytest.mark.slow
def test_series_of_a_cube_become_shards_again(finished: Campaign, demo_archive: Path, tmp_path: Path) -> None:
    """An object of two windows is decoded and encoded as the parts had it; the digests say that it is the same."""
    finished.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=2))
    for verb in ("plan", "consolidate"):
        finished.cli(verb)
    shutil.rmtree(finished.run.parts)
    campaign = begun(tmp_path / "again", demo_archive, finished)
    assert sum(row["embed"] for row in planned(campaign)["changes"]) == 0
    campaign.cli("consolidate")
    assert len(recorded_recipes(campaign.run)) == 30


def test_damaged_objects_of_a_base_are_not_believed(finished: Campaign, demo_archive: Path, tmp_path: Path) -> None:
    cube = finished.run.newest_cube.resolve()
    (one, other), gone = sorted(cube.glob("*/*/embedding/c.*")), sorted(cube.glob("*/*/status/c.*"))[1]
    in_gone = sum(place[3] >= 8 for place in Cube(cube).provenance.places)
    assert 0 < in_gone < 29
    shutil.rmtree(finished.run.parts)
    flip(one)
    flip(other)  # of a shard whose status is gone, too
    gone.unlink()
    campaign = begun(tmp_path / "again", demo_archive, finished)
    said = campaign.cli("plan")
    taken = 30 - 1 - in_gone
    assert f"{taken} shards from {finished.run.root}" in said
    assert "2 shards of the base are damaged, and are embedded again:" in said
    assert f"{one}: " in said
    assert f"{other}: " in said
    assert f"{in_gone - 1} shards of {finished.run.root} have no bytes there: they are embedded again" in said
    with pytest.raises(WorkError, match=f"{30 - taken} of 30 shards have no record"):
        campaign.cli("consolidate")


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file, within one shard."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.slow
def test_files_that_cannot_be_linked_are_copied(
    finished_demo: Campaign, demo_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    campaign = begun(tmp_path / "again", demo_archive, finished_demo)
    monkeypatch.setattr(os, "link", refuse)
    assert f"39 shards from {finished_demo.run.root}, 39 of them copied" in campaign.cli("plan")
    monkeypatch.undo()
    campaign.cli("consolidate")
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    assert not packs(campaign.run) & packs(finished_demo.run)


def test_withdrawn_scenes_are_in_no_shard(finished: Campaign) -> None:
    """Their shards have another reason and another recipe, the others are unchanged; plan and provenance say so."""
    shards = in_the_first_round(finished)
    scenes = Cube(finished.run.newest_cube).provenance.blobs("scene")
    ids = [json.loads(text)["id"] for text in scenes]
    row = shards[0].scenes[0]
    fed = {shard.place for shard in shards if row in shard.scenes}
    assert 0 < len(fed) < len(shards)
    before = {shard.place: shard.recipe for shard in shards}

    finished.change(lambda document: document.update(withdraw=[f"s2/{ids[row]}"]))
    answer = planned(finished)
    rows = {row["reason"]: (row["shards"], row["embed"], row["scenes"]) for row in answer["changes"]}
    assert rows == {
        "other scenes": (len(fed), len(fed), [f"without s2/{ids[row]}"]),
        "unchanged": (len(shards) - len(fed), 0, []),
    }
    assert answer["changes"][0]["input_bytes"] > 0
    assert answer["changes"][0]["rank_s"] > 0
    after = {shard.place: shard.recipe for shard in in_the_first_round(finished)}
    assert {place for place in before if before[place] != after[place]} == fed
    said = finished.cli("plan")
    assert f"1 scene withdrawn: s2/{ids[row]}" in said
    assert f"layers.s2_mosaiks: weights fitted before s2/{ids[row]} was withdrawn: a run from nothing fits its" in said


@pytest.mark.slow
def test_a_verdict_is_taken_over_only_with_the_shard_that_reached_it(
    finished_demo: Campaign, demo_archive: Path, tmp_path: Path
) -> None:
    """A smaller region without the shard that found the torn scene uses that scene, as a run from nothing does."""
    smaller = partial(dict.update, region=SOUND_PLACE)
    campaign = begun(tmp_path / "run", demo_archive, finished_demo, smaller)
    reasons = {row["reason"]: (row["shards"], row["embed"]) for row in planned(campaign)["changes"]}
    assert reasons == {"unchanged": (1, 0), "other verdict": (1, 0), "gone": (28, 0)}
    assert not read_plan(load_campaign(campaign.file), campaign.run).verdicts.scenes
    campaign.cli("consolidate")
    assert "nothing found wrong" in campaign.cli("verify", "--recompute", "2")


def test_what_is_not_there_is_refused_by_name(finished: Campaign, tmp_path: Path) -> None:
    for entries, words in (
        (["S2X_nothing"], 'withdraw: "S2X_nothing" is in no archive of the inventory'),
        ([f"s1/{BROKEN}"], f'withdraw: "s1/{BROKEN}" is in no archive'),
    ):
        finished.change(partial(dict.update, withdraw=entries))
        with pytest.raises(RequestError, match=words):
            finished.cli("plan")
    finished.change(lambda document: document.pop("withdraw"))
    for base, words in (
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path, "neither a run folder"),
        ("https://cubes.example/cube.zarr", "a base is a folder here: copy the cube with `embedcube pull`"),
    ):
        finished.change(partial(dict.update, how={"ranks": 1, "base": str(base)}))
        done = call_cli("plan", finished.file)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_a_base_and_withdrawn_scenes_enter_the_digests_as_they_should(finished: Campaign) -> None:
    plain = load_campaign(finished.file)
    assert "withdraw" not in plain.what
    finished.change(lambda document: document["how"].update(base="."))
    assert load_campaign(finished.file).digest == plain.digest
    finished.change(lambda document: document.update(withdraw=[BROKEN]))
    withdrawn = load_campaign(finished.file)
    assert withdrawn.digest != plain.digest
    assert withdrawn.what["withdraw"] == [BROKEN]
    digests = set()
    for entries in (["a", "b"], ["b", "a"], ["a", "b", "a"]):
        finished.change(partial(dict.update, withdraw=entries))
        digests.add(load_campaign(finished.file).digest)
    assert len(digests) == 1, "neither order nor repetition asks for anything else"


def test_the_verdict_of_a_withdrawn_scene_is_gone(finished: Campaign) -> None:
    """The torn scene is withdrawn: no round is needed for it, and the error budget does not count it."""
    finished.change(lambda document: document.update(withdraw=[BROKEN], how=document["how"] | {"error_budget": 0}))
    assert planned(finished)["over_budget"] == ""
    plan = read_plan(load_campaign(finished.file), finished.run)
    assert not plan.verdicts.scenes
    assert len(set(read_recipes(finished.run, plan)) & recorded_recipes(finished.run)) == 21


def of_month(folder: Path, archive: Path, base: Campaign, name: str, start: str, end: str) -> Campaign:
    """A campaign of one month of the demo whose shards are those of the base."""

    def change(document: dict[str, Any]) -> None:
        document["campaign"] = name
        document["windows"] |= {"start": start, "end": end}

    campaign = begun(folder / name, archive, base, change)
    said = campaign.cli("plan")
    assert "layers.s2_mosaiks: weights fitted on 2023-06-01T00:00:00Z/2023-08-01T00:00:00Z, not on 2023-0" in said
    return campaign


@pytest.fixture(scope="module")
def months(
    tmp_path_factory: pytest.TempPathFactory, demo_archive: Path, finished_demo: Campaign
) -> tuple[Campaign, Campaign]:
    """The demo as two runs, one of June and one of July. Do not change them: copy."""
    folder = tmp_path_factory.mktemp("months")
    june = of_month(folder, demo_archive, finished_demo, "june", "2023-06-01", "2023-07-01")
    return june, of_month(folder, demo_archive, finished_demo, "july", "2023-07-01", "2023-08-01")


def merged(folder: Path, archive: Path, *runs: Path) -> tuple[Campaign, Any]:
    """The whole campaign, and what `merge` answers."""
    whole = demo_in(folder, archive)
    return whole, call_cli("merge", *runs, "--campaign", whole.file)


def test_two_runs_become_the_cube_of_one(
    months: tuple[Campaign, Campaign], finished_demo: Campaign, demo_archive: Path, tmp_path: Path
) -> None:
    whole, done = merged(tmp_path, demo_archive, *(month.run.root for month in months))
    assert done.returncode == 0, done.stderr
    cube = whole.run.newest_cube
    assert cube_bytes(cube) == cube_bytes(finished_demo.run.newest_cube)
    assert cube.resolve().name == finished_demo.run.newest_cube.resolve().name
    assert packs(whole.run) == packs(finished_demo.run)
    assert "nothing found wrong" in whole.cli("verify", "--recompute", "0")
    # started again it goes on from what is there
    assert call_cli("merge", *(month.run.root for month in months), "--campaign", whole.file).returncode == 0


def test_a_missing_shard_is_named_with_the_run_that_should_have_it(
    months: tuple[Campaign, Campaign], demo_archive: Path, tmp_path: Path
) -> None:
    june, july = months
    copy = shutil.copytree(july.run.root, tmp_path / "july", symlinks=True)
    whole = read_plan(load_campaign(july.file), july.run)
    recipes = set(read_recipes(july.run, whole))
    # a part may have nothing but records of the first round
    parts = {path: path.read_bytes().splitlines(keepends=True) for path in copy.glob("parts/*/*/*/records.jsonl")}
    records, lost = next(
        (path, line) for path, lines in parts.items() for line in lines if json.loads(line)["recipe"] in recipes
    )
    records.write_bytes(b"".join(line for line in parts[records] if line != lost))
    _, done = merged(tmp_path, demo_archive, june.run.root, copy)
    assert done.returncode == 1
    assert "1 of 30 shards are missing" in done.stderr
    assert f"{copy} should have 1, the first is {ZONE} t1 " in done.stderr
    assert "(2023-07-01T00:00:00Z/2023-08-01T00:00:00Z): not embedded there" in done.stderr
    shutil.rmtree(tmp_path / "runs")
    _, done = merged(tmp_path, demo_archive, june.run.root)
    assert "15 of 30 shards are missing" in done.stderr
    assert f"15 are of none of the runs, the first is {ZONE} t1 " in done.stderr


def test_runs_that_do_not_fit_are_refused_with_both_values(
    months: tuple[Campaign, Campaign], demo_archive: Path, tmp_path: Path
) -> None:
    june, july = months

    def refused(change: Callable[[dict[str, Any]], object], *words: str) -> None:
        shutil.rmtree(tmp_path / "july", ignore_errors=True)
        copy = shutil.copytree(july.run.root, tmp_path / "july", symlinks=True)
        change_plan(RunDir(copy), change)
        _, done = merged(tmp_path, demo_archive, june.run.root, copy)
        assert done.returncode == 2, done.stderr
        for word in (str(copy), *words):
            assert word in done.stderr

    def layer(document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = document["layers"]["s2_mosaiks"]
        return found

    refused(lambda document: document.update(campaign="0" * 64), "made for another version of the campaign (00000000")
    refused(lambda document: layer(document).update(batch=9), "layer.batch 9", f"{june.run.root} 4")
    refused(lambda document: layer(document).update(weights="00ff"), "weights 00ff", str(june.run.root))
    refused(lambda document: layer(document)["versions"].update(zarr="1.0"), "versions.zarr 1.0", str(june.run.root))
    for runs, words in (
        ((june.run.root, june.run.root), "named twice"),
        ((june.run.newest_cube if june.run.newest_cube.exists() else tmp_path / "x",), "there is no such folder"),
        ((tmp_path,), "neither a run folder"),
    ):
        _, done = merged(tmp_path, demo_archive, *runs)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    whole = demo_in(tmp_path, demo_archive)
    whole.change(lambda document: document["layers"]["s2_mosaiks"].update(min_valid=0.7))
    done = call_cli("merge", june.run.root, july.run.root, "--campaign", whole.file)
    assert done.returncode == 2
    assert "layer s2_mosaiks has layer.min_valid 0.5, the whole campaign 0.7" in done.stderr


@pytest.mark.slow
def test_two_results_of_one_recipe_are_refused(
    months: tuple[Campaign, Campaign], demo_archive: Path, tmp_path: Path
) -> None:
    """The same run twice under two names fits; with another digest in one record it does not."""
    june, july = months
    copy = shutil.copytree(june.run.root, tmp_path / "june", symlinks=True)
    assert merged(tmp_path, demo_archive, june.run.root, copy, july.run.root)[1].returncode == 0
    shutil.rmtree(tmp_path / "runs")
    for records in copy.glob("parts/*/*/*/records.jsonl"):
        lines = [from_line(line) for line in records.read_bytes().splitlines(keepends=True)]
        for line in lines:
            assert line is not None
            line["arrays"][0]["sha256"] = "0" * 64
        records.write_bytes(b"".join(to_line(line) for line in lines if line))
    _, done = merged(tmp_path, demo_archive, june.run.root, copy, july.run.root)
    assert done.returncode == 1
    assert f"{june.run.root} (on " in done.stderr
    assert "have different bytes for one recipe" in done.stderr


def test_a_renamed_layer_keeps_what_records_say(finished: Campaign) -> None:
    """Records name the layer as it was called: costs, failed cells and the crate are of the layer as it is now."""
    run = finished.run
    finished.change(lambda document: document["layers"].update(optical=document["layers"].pop("s2_mosaiks")))
    for name in ("safetensors", "json"):
        shutil.copy(run.weights_folder / f"s2_mosaiks.{name}", run.weights_folder / f"optical.{name}")
    assert [(row["layer"], row["reason"], row["embed"]) for row in planned(finished)["changes"]] == [
        ("optical", "unchanged", 0)
    ]
    finished.cli("consolidate")
    crate = run.newest_cube / "provenance" / "crate"
    assert json.loads((crate / "prov.json").read_text())["activity"]["cube:embed/optical"]["embedcube:shards"] == 30
    campaign = load_campaign(finished.file)
    plan = read_plan(campaign, run)
    recipes = read_recipes(run, plan)
    records = replace(recorded(run, recipes), not_held={recipes[0]: {"not_finite": 3}, recipes[1]: {"not_finite": 4}})
    [line] = not_held_in_words(campaign, run, plan, records)
    assert line.startswith("layers.optical: 7 cells failed: ")

    kept = [line for line in record_lines(run) if json.loads(line)["recipe"] != recipes[0]]
    (part := sorted(run.parts.glob("*/*/*/records.jsonl"))[0]).write_bytes(b"".join(kept))
    for other in sorted(run.parts.glob("*/*/*/records.jsonl")):
        if other != part:
            other.unlink()
    [row] = planned(finished)["changes"]
    assert (row["layer"], row["embed"]) == ("optical", 1)
    assert row["rank_s"] > 0


def test_a_changed_campaign_in_an_old_folder_is_told_what_is_there(finished: Campaign) -> None:
    first = finished.run.campaign.read_bytes()
    finished.change(lambda document: document["archives"]["s2"]["mask"].update(clear=[4, 5]))
    with pytest.raises(RequestError, match=r"was made for another version .*: other archives\.s2\.mask\.clear"):
        finished.cli("consolidate")
    assert finished.run.campaign.read_bytes() == first, "jobs of the old plan still find it"
    said = finished.cli("run", "--until", "plan")
    assert "was made for another version of this campaign (other archives.s2.mask.clear)" in said
    assert "other recipe: archives.s2.mask.clear" in said


def test_two_people_in_one_folder(finished: Campaign) -> None:
    """Somebody plans with another mask while a process works on the folder."""
    other = finished.file.with_name("other.yaml")
    shutil.copy(finished.file, other)
    # a process whose command line is that of a run, on the same campaign file, that does nothing
    program = "import time, sys; print('here', flush=True); time.sleep(60)"
    words = [sys.executable, "-c", program, "embedcube", "run", str(finished.run.campaign)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            Campaign(other).change(lambda document: document["layers"]["s2_mosaiks"].update(min_valid=0.9))
            done = call_cli("plan", other)
            first = finished.run.campaign.read_bytes()
            merging = call_cli("merge", finished.run.root, "--campaign", other)
        finally:
            process.kill()
    assert (done.returncode, merging.returncode) == (2, 2)
    assert merging.stderr == done.stderr
    assert finished.run.campaign.read_bytes() == first
    assert f"process {process.pid} works on it with another version of this campaign" in done.stderr
    assert "other layers.s2_mosaiks.min_valid" in done.stderr
    assert "name this folder with how.base" in done.stderr


def test_another_version_of_the_kernel_is_a_reason(finished: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcube.kernel.versions.KERNEL_VERSION", KERNEL_VERSION + 1)
    assert [row["reason"] for row in planned(finished)["changes"]] == ["other recipe: versions.kernel"]


def test_a_finished_campaign_that_is_planned_again_is_unchanged(
    finished: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards are not compared one by one: there may be millions."""
    monkeypatch.setattr("embedcube.consolidate.reprocess.compared", None)
    assert [(row["reason"], row["shards"], row["embed"]) for row in planned(finished)["changes"]] == [
        ("unchanged", 30, 0)
    ]
