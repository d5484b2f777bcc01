"""Sealed: what decides bytes is digested, and whoever reads it checks the digest.

Shown here: every file of the run folder, read by all that reads it; what ranks wrote; and the cube.
tests/consolidate/test_verify.py has dozens of ways to change a cube that `verify` finds.
"""

import dataclasses
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from tests.conftest import Campaign, call_cli, change_plan, change_rows

from embedcube.backbones.weights import read_weights, write_weights
from embedcube.campaign.inventory import made_for, read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import FED, RECORDS, Record, best_records, crash_files, scan_records
from embedcube.campaign.plan import (
    planned_scenes,
    read_plan,
    read_plan_columns,
    read_recipes,
    read_shards,
    tasks_undone,
    write_pilot,
)
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.resolve import write_resolved
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import from_line, to_line
from embedcube.consolidate.verify import verify_run
from embedcube.errors import RequestError, WorkError
from embedcube.jobs.submissions import Submission, submissions
from embedcube.prepare.fit import fit
from embedcube.workers.crashes import Crash, crashes_by_shard, write_crash

Damage = Callable[[random.Random, bytearray], None]


@pytest.fixture
def finished(finished: Campaign) -> Campaign:
    """A copy of the finished demo, whose campaign as resolved is that of the copy."""
    write_resolved(load_campaign(finished.file), finished.run)
    return finished


def flip_a_byte(path: Path, at: int | None = None) -> None:
    """Flip a bit of a byte: of the one in the middle, unless another is named."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.unlink()  # an object is read-only, and may be linked to another place
    path.write_bytes(data)


# --- damaged files ------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytearray) -> None:
    """One bit, as memory or a disk does."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero(rng: random.Random, data: bytearray) -> None:
    """A few zeros, as a power cut leaves them."""
    at = rng.randrange(len(data) - 1)
    data[at : at + 64] = bytes(len(data[at : at + 64]))


def cut_off(rng: random.Random, data: bytearray) -> None:
    """The end is gone, as on a full disk."""
    del data[rng.randrange(len(data)) :]


damages = pytest.mark.parametrize("damage", [flip, zero, cut_off])


def damaged(path: Path, damage: Damage, count: int) -> Iterator[int]:
    """Damage the file in `count` ways, one after the other; each seed is yielded while the file is damaged."""
    whole = path.read_bytes()
    for seed in range(count):
        data = bytearray(whole)
        damage(random.Random(f"{path.name}{seed}"), data)
        path.unlink()
        path.write_bytes(data)
        yield seed
    path.unlink()
    path.write_bytes(whole)


def use_plan(campaign: Campaign) -> None:
    """All that is read of a plan."""
    loaded, run = load_campaign(campaign.file), campaign.run
    plan = read_plan(loaded, run)
    for task in (None, 0):
        read_shards(run, plan, task)
        read_recipes(run, plan, task)
    tasks_undone(run, plan, set())
    planned_scenes(run, plan, read_inventory(loaded, run, planned=plan.inventory))
    read_plan_columns(run, plan, ("layer", "zone", "cost"))


def use_inventory(campaign: Campaign) -> None:
    """All that is read of an inventory, before there is a plan."""
    list(read_inventory(load_campaign(campaign.file), campaign.run))


def use_pilot(campaign: Campaign) -> None:
    """The task of the pilot."""
    plan = read_plan(load_campaign(campaign.file), campaign.run)
    read_shards(campaign.run, plan, plan.tasks)


def use_campaign(campaign: Campaign) -> None:
    """The campaign as jobs and ranks read it."""
    load_campaign(campaign.run.campaign)


FILES: dict[str, Callable[[Campaign], None]] = {
    "plan.parquet": use_plan,
    "plan.json": use_plan,
    "inventory.parquet": use_inventory,
    "inventory.json": use_inventory,
    "pilot.json": use_pilot,
    "campaign.yaml": use_campaign,
}
"""Each file of the run folder that decides what is computed, and its readers."""


@damages
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_its_readers(finished: Campaign, name: str, damage: Damage) -> None:
    write_pilot(finished.run, read_plan(load_campaign(finished.file), finished.run), [3, 1, 2])
    FILES[name](finished)
    for seed in damaged(finished.run.root / name, damage, 25):
        with pytest.raises(RequestError, match=r"run `embedcube |campaign\.yaml: ") as refused:
            FILES[name](finished)
        assert f"{finished.run.root / name}: " in str(refused.value) or name.startswith("inventory"), seed
    FILES[name](finished)


def test_an_inventory_that_is_damaged_was_made_for_nothing(finished: Campaign) -> None:
    loaded = load_campaign(finished.file)
    assert made_for(loaded, finished.run)
    flip_a_byte(finished.run.inventory)
    assert not made_for(loaded, finished.run)


@pytest.mark.parametrize("verb", ["embed", "consolidate", "verify"])
def test_a_damaged_plan_is_named_by_each_command(finished: Campaign, verb: str) -> None:
    flip_a_byte(finished.run.plan)
    done = call_cli(verb, finished.file)
    assert done.returncode == 2
    assert done.stderr.startswith(f"embedcube: {finished.run.plan}: damaged or replaced, its SHA-256 is ")
    assert done.stderr.endswith("; run `embedcube plan` again\n")


def test_a_damaged_plan_is_named_by_status(finished: Campaign) -> None:
    flip_a_byte(finished.run.plan)
    said = finished.cli("status")
    assert f"  {finished.run.plan}: damaged or replaced, its SHA-256 is " in said
    assert "; run `embedcube plan` again\n" in said


@pytest.mark.parametrize("verb", ["embed", "consolidate", "verify"])
def test_an_inventory_that_has_changed_is_refused(finished: Campaign, verb: str) -> None:
    flip_a_byte(finished.run.inventory)
    done = call_cli(verb, finished.file)
    assert done.returncode == 2
    assert f"{finished.run.inventory}: damaged or replaced" in done.stderr
    assert done.stderr.endswith("; run `embedcube index` again\n")


def test_two_plans_are_never_mixed(finished: Campaign) -> None:
    """A process of the last plan reads no row of a new one; nor does a new one, where `plan` was killed half-way."""
    loaded, run = load_campaign(finished.file), finished.run
    before, rows = read_plan(loaded, run), run.plan.read_bytes()
    finished.change(lambda document: document["how"].update(tasks=2))
    finished.cli("plan")
    with pytest.raises(RequestError, match="damaged or replaced"):
        read_shards(run, before)
    after = read_plan(loaded, run)
    assert len(read_recipes(run, after)) == 30
    run.plan.write_bytes(rows)
    with pytest.raises(RequestError, match="run `embedcube plan` again"):
        read_shards(run, after)


def test_a_pilot_of_another_plan_is_refused(finished: Campaign) -> None:
    plan = read_plan(load_campaign(finished.file), finished.run)
    write_pilot(finished.run, plan, [0])
    change_rows(finished.run, lambda table: table.take([*range(1, len(table)), 0]))
    plan = read_plan(load_campaign(finished.file), finished.run)
    with pytest.raises(RequestError, match="chosen for another plan; run `embedcube submit --pilot` again"):
        read_recipes(finished.run, plan, plan.tasks)


def test_a_campaign_as_resolved_that_was_edited_says_what_to_do(finished: Campaign, tmp_path: Path) -> None:
    path = finished.run.campaign
    text = path.read_text()
    path.write_text(text.replace("min_valid: 0.5", "min_valid: 0.6"))
    with pytest.raises(RequestError, match=r"changed since embedcube wrote it, .* remove that line"):
        load_campaign(path)
    # without the line it is a campaign like any other, but not the one that jobs read
    mine = tmp_path / "mine.yaml"
    mine.write_text(path.read_text().partition("\n")[2])
    assert next(iter(load_campaign(mine).layers.values())).min_valid == 0.6
    shutil.copy(mine, path)
    with pytest.raises(
        RequestError, match="its first line is not that of embedcube: damaged, or written by another version"
    ):
        load_campaign(path)


# --- recipes ------------------------------------------------------------------------------------------


def exchanged(column: str, first: int, second: int) -> Callable[[pyarrow.Table], pyarrow.Table]:
    """The rows of a plan, two of which have exchanged their value of a column."""

    def change(table: pyarrow.Table) -> pyarrow.Table:
        order = list(range(len(table)))
        order[first], order[second] = second, first
        place = table.schema.get_field_index(column)
        return table.set_column(place, column, table[column].take(pyarrow.array(order)))

    return change


def rows_that_differ(table: pyarrow.Table, column: str, rng: random.Random) -> tuple[int, int]:
    values = table[column].to_pylist()
    return rng.choice([(i, j) for i in range(len(values)) for j in range(i) if values[i] != values[j]])


@pytest.mark.parametrize("column", ["t", "row", "col", "scenes", "recipe"])
def test_rows_that_are_not_the_inventorys_are_seen_though_the_digests_agree(finished: Campaign, column: str) -> None:
    """Ten times two shards exchange a value; each rank derives the recipe of what it embeds."""
    loaded, run = load_campaign(finished.file), finished.run
    whole = read_plan_columns(run, read_plan(loaded, run), (column,))
    for seed in range(10):
        pair = rows_that_differ(whole, column, random.Random(seed))
        change_rows(run, exchanged(column, *pair))
        plan = read_plan(loaded, run)
        recipes = PlannedRecipes.here(loaded, plan, read_inventory(loaded, run, planned=plan.inventory))
        shards = [shard for group in read_shards(run, plan) for shard in group]
        wrong = [shard for shard in shards if recipes.derive(shard) != shard.recipe]
        assert len(wrong) == 2
        with pytest.raises(WorkError, match=r"inventory and plan give .* run `embedcube plan` again"):
            recipes.refuse_other(wrong[0])
        change_rows(run, exchanged(column, *pair))


def test_a_shard_outside_of_the_campaign_has_no_recipe(finished: Campaign) -> None:
    loaded, run = load_campaign(finished.file), finished.run
    plan = read_plan(loaded, run)
    recipes = PlannedRecipes.here(loaded, plan, read_inventory(loaded, run, planned=plan.inventory))
    shard = read_shards(run, plan)[0][0]
    for other in (dataclasses.replace(shard, t=99), dataclasses.replace(shard, scenes=(99,))):
        with pytest.raises(WorkError, match="inventory and plan give none"):
            recipes.refuse_other(other)


def test_a_rank_embeds_no_shard_whose_recipe_is_not_that_of_its_scenes(finished: Campaign) -> None:
    table: pyarrow.Table = read_plan_columns(
        finished.run, read_plan(load_campaign(finished.file), finished.run), ("scenes",)
    )
    pair = rows_that_differ(table, "scenes", random.Random(1))
    lost = {read_recipes(finished.run, read_plan(load_campaign(finished.file), finished.run))[row] for row in pair}
    change_rows(finished.run, exchanged("scenes", *pair))
    # only the two are to be embedded
    for path in finished.run.parts.rglob(RECORDS):
        kept = [
            line for line in path.read_bytes().splitlines(keepends=True) if not any(r.encode() in line for r in lost)
        ]
        path.write_bytes(b"".join(kept))
    done = call_cli("embed", finished.file, "--ranks", "1")
    assert done.returncode == 1
    assert "its recipe in the plan is" in done.stderr
    assert "run `embedcube plan` again" in done.stderr
    assert not lost & recorded_recipes(finished.run)


def test_verify_derives_the_recipes_of_the_plan_again(finished: Campaign) -> None:
    loaded, run = load_campaign(finished.file), finished.run
    plan = read_plan(loaded, run)
    pair = rows_that_differ(read_plan_columns(run, plan, ("scenes",)), "scenes", random.Random(1))
    change_rows(run, exchanged("scenes", *pair))
    findings = [str(finding) for finding in verify_run(loaded, run, lambda *_: None, recompute=0)]
    in_plan = [finding for finding in findings if " in the plan: " in finding]
    assert len(in_plan) == 2
    assert all(finding.startswith("recipe: s2_mosaiks/grid t") for finding in in_plan)


def test_verify_derives_the_place_of_a_zone_again(finished: Campaign) -> None:
    def moved(document: dict[str, Any]) -> None:
        place = document["layers"]["s2_mosaiks"]["zones"]["grid"]
        place["row"], place["rows"] = place["row"] - 1, place["rows"] + 1

    change_plan(finished.run, moved)
    findings = verify_run(load_campaign(finished.file), finished.run, lambda *_: None, recompute=0)
    assert "place" in {finding.check for finding in findings}


# --- records and other lines ----------------------------------------------------------------------------


def records_of(run: RunDir) -> dict[str, Record]:
    return {record.recipe: record for _, record in scan_records(run)}


@damages
def test_a_damaged_record_is_no_record(finished: Campaign, damage: Damage) -> None:
    """Whatever is wrong in it: its shard is undone, all others are as they were, and nothing of it is believed."""
    path = next(iter(sorted(finished.run.parts.rglob(RECORDS))))
    whole = records_of(finished.run)
    for seed in damaged(path, damage, 40):
        found = records_of(finished.run)
        assert len(found) < len(whole), seed
        assert recorded_recipes(finished.run) == best_records(finished.run, set(whole)).keys() == found.keys()
        assert all(whole[recipe] == record for recipe, record in found.items()), seed
        if damage is flip:
            assert len(found) >= len(whole) - 2, "two where the end of a line has changed"


def test_the_shard_of_a_damaged_record_is_embedded_again(finished: Campaign) -> None:
    before = finished.run.newest_cube.resolve().name
    path = max(finished.run.parts.rglob(RECORDS))  # of the last round, whose records the cube needs
    lines = path.read_bytes()
    path.write_bytes(lines[:40] + bytes([lines[40] ^ 1]) + lines[41:])
    done = call_cli("consolidate", finished.file)
    assert done.returncode == 1
    assert "1 of 30 shards have no record" in done.stderr
    assert call_cli("embed", finished.file, "--ranks", "1").returncode == 0
    assert call_cli("consolidate", finished.file).returncode == 0
    assert finished.run.newest_cube.resolve().name == before


def test_records_of_another_version_are_told_and_not_believed(
    finished: Campaign, caplog: pytest.LogCaptureFixture
) -> None:
    path = next(iter(sorted(finished.run.parts.rglob(RECORDS))))
    lines = path.read_bytes().splitlines(keepends=True)
    elsewhere = records_of(finished.run).keys() - {json.loads(line)["recipe"] for line in lines}
    first, second, third = lines[:3]
    without_checksum = first.partition(b',"checksum"')[0] + b"}\n"
    other = from_line(second)
    assert other is not None
    path.write_bytes(without_checksum + to_line(other | {"format": "0" * 8}) + third)
    with caplog.at_level(logging.WARNING):
        found = recorded_recipes(finished.run)
    assert found == records_of(finished.run).keys() == elsewhere | {json.loads(third)["recipe"]}
    assert "2 lines (the first is line 1) are no records: damaged, or written by another version" in caplog.text


def test_a_damaged_crash_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path)
    part = run.part(0, "attempt", 0)
    write_crash(part, Crash(host="node1", signal=9, shards=("a" * 64,), alone=True))
    assert len(crashes_by_shard(crash_files(run), ["a" * 64])) == 1
    for _ in damaged(part / "crash.json", flip, 30):
        assert crashes_by_shard(crash_files(run), ["a" * 64]) == {}
    assert "this crash does not count" in caplog.text


def test_a_damaged_submission_hides_no_other(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    noted = [Submission(time="2026-01-01", again=False, tasks=(0,), jobs={"embed": [str(job)]}) for job in (7, 8)]
    run.submissions.write_bytes(b"".join(to_line(dataclasses.asdict(one)) for one in noted))
    assert submissions(run) == noted
    for _ in damaged(run.submissions, flip, 60):
        found = submissions(run)
        assert all(one in noted for one in found)


# --- what is digested elsewhere -------------------------------------------------------------------------


def test_weights_that_have_changed_embed_nothing_and_are_a_finding(finished: Campaign) -> None:
    flip_a_byte(finished.run.weights("s2_mosaiks"))
    done = call_cli("verify", finished.file)
    assert done.returncode == 1
    assert "weights: s2_mosaiks: " in done.stdout + done.stderr
    shutil.rmtree(finished.run.parts)
    done = call_cli("embed", finished.file, "--ranks", "1")
    assert done.returncode == 1
    assert f"{finished.run.weights('s2_mosaiks').name}: its SHA-256 is" in done.stderr
    assert not list(finished.run.parts.rglob("records.jsonl"))


@damages
def test_weights_damaged_before_there_is_a_plan_are_refused(finished: Campaign, damage: Damage) -> None:
    loaded, path = load_campaign(finished.file), finished.run.weights("s2_mosaiks")
    write_weights(finished.run, "s2_mosaiks", path.read_bytes())
    assert read_weights(loaded, finished.run, "s2_mosaiks")
    for seed in damaged(path, damage, 20):
        with pytest.raises(RequestError, match=r"run `embedcube fit` again") as refused:
            read_weights(loaded, finished.run, "s2_mosaiks")
        assert f"{path}: damaged or replaced" in str(refused.value), seed


@pytest.mark.parametrize("older", [False, True])
def test_weights_written_halfway_are_not_taken_for_a_file_of_somebody(
    finished: Campaign, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """Killed after the first of the two files: what is there is refused, and `fit` makes both again or says how."""
    loaded, path = load_campaign(finished.file), finished.run.weights("s2_mosaiks")
    seal, whole = finished.run.weights_seal("s2_mosaiks"), path.read_bytes()
    for file in (path, seal):
        file.unlink(missing_ok=True)
    if older:
        write_weights(finished.run, "s2_mosaiks", whole[:-1] + bytes([whole[-1] ^ 1]))
    renamed: list[Path] = []
    rename = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if renamed:
            raise SystemExit
        renamed.append(target)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(SystemExit):
            write_weights(finished.run, "s2_mosaiks", whole)
    with pytest.raises(RequestError, match="damaged or replaced" if older else "no weights yet") as refused:
        read_weights(loaded, finished.run, "s2_mosaiks")
    if older:
        assert "remove both files and run `embedcube fit` again" in str(refused.value)
        with pytest.raises(RequestError, match=r"remove both files and run `embedcube fit` again"):
            fit(loaded, finished.run)
        path.unlink()
        seal.unlink()
    assert all(layer.fresh == (layer.layer == "s2_mosaiks") for layer in fit(loaded, finished.run))
    assert path.read_bytes() == whole
    assert seal.exists()


def test_weights_that_are_none_are_refused_in_words(finished: Campaign) -> None:
    """A file that somebody has put there has no digest beside it: its header is read, whatever it says."""
    loaded, path = load_campaign(finished.file), finished.run.weights("s2_mosaiks")
    finished.run.weights_seal("s2_mosaiks").unlink(missing_ok=True)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    headers = [b"", b"[]", b"null", b'{"__metadata__":null}', b'{"__metadata__":{"embedcube":"[1]"}}', b"[" * 9000]
    headers += [bytes(header) for header in _flipped(whole[8 : 8 + size], 60)]
    refused = []
    for header in headers:
        path.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + size :])
        try:
            read_weights(loaded, finished.run, "s2_mosaiks")
        except RequestError:
            refused.append(header)
    # a flip in the name of a period or of a free key leaves a header that says as much as before
    assert refused[:6] == headers[:6]
    assert len(refused) > 50


def _flipped(data: bytes, count: int) -> Iterator[bytearray]:
    for seed in range(count):
        other = bytearray(data)
        flip(random.Random(seed), other)
        yield other


@pytest.mark.parametrize("name", ["embedding", FED])
def test_a_part_that_has_changed_enters_no_cube(finished: Campaign, name: str) -> None:
    plan = read_plan(load_campaign(finished.file), finished.run)
    # a later round may have embedded a shard again: what the first one made of it enters no cube
    part, record = next(iter(best_records(finished.run, set(read_recipes(finished.run, plan))).values()))
    [stored] = [one for one in (*record.arrays, record.fed) if one.array == name]
    victim = part / stored.path
    flip_a_byte(victim, stored.offset + stored.size // 2)
    shutil.rmtree(finished.run.cubes)
    finished.run.newest_cube.unlink()
    done = call_cli("consolidate", finished.file)
    assert done.returncode == 1
    assert f"{victim}: {name}, {stored.size} bytes with SHA-256 " in done.stderr
    assert not finished.run.newest_cube.exists()


def test_a_cube_that_has_changed_is_found_without_its_run(finished: Campaign, tmp_path: Path) -> None:
    alone = tmp_path / "alone.zarr"
    shutil.copytree(finished.run.newest_cube.resolve(), alone)
    flip_a_byte(min(alone.rglob("embedding/c.*")))
    done = call_cli("verify", alone)
    assert done.returncode == 1
    assert "embedding/c." in done.stdout + done.stderr
