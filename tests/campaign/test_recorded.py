"""What tables of attempts say is what the lines of records say, whatever became of either (ADR 0015)."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import Campaign, planned_records

from embedcube.campaign import record_tables, recorded
from embedcube.campaign.columns import texts
from embedcube.campaign.parts import (
    FED,
    PACK,
    RECORDS,
    PartWriter,
    Quarantined,
    Record,
    Stored,
    crash_files,
    scan_documents,
)
from embedcube.campaign.plan import Plan
from embedcube.campaign.price import Price
from embedcube.campaign.record_tables import COUNTS, forget_tables, write_table
from embedcube.campaign.recorded import (
    best_documents,
    best_rows,
    merge_recorded,
    read_recorded,
    recorded_in,
    recorded_of_task,
    recorded_recipes,
)
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import WorkError
from embedcube.workers.crashes import Crash, write_crash

TASKS = 3


def plan_of(files: str = "a") -> Plan:
    price = cast(Price, None)
    return Plan(
        campaign="", plan="", inventory="", versions={}, layers={}, shards=0, tasks=TASKS, price=price,
        files={"plan.parquet": files},
    )  # fmt: skip


def recipe_of_task(task: int, number: int) -> str:
    return f"{task:032x}{number:032x}"


def record(recipe: str, missing: int = 0, attempt: str = "1-0") -> Record:
    stored = Stored(array=FED, path=PACK, offset=0, size=4, sha256="ab" * 32)
    quarantined = tuple(
        Quarantined(archive="s2", scene=f"scene {i} é \udcff", scene_digest=f"{i:064x}", reason='"broken"')
        for i in range(missing)
    )
    return Record(
        shard="layer/grid t0 y0 x0", recipe=recipe, arrays=(replace(stored, array="embedding"),), fed=stored,
        contributions_size=4, scenes=(), quarantined=quarantined, refused="", counts={"valid": 3, "chips": 1},
        seconds={}, read_bytes=0, energy_j=None, peak_bytes=0, started="2026-01-01T00:00:00.123+00:00",
        finished="2026-01-01T00:00:01.456+00:00", host="a", device="cpu", attempt=attempt, rank=0, code_version="0",
        job=attempt.partition("-")[0], container="", not_held={"not_finite": 2} if missing else {},
    )  # fmt: skip


def write(run: RunDir, task: int, attempt: str, rank: int, *records: Record) -> Path:
    """Append records as a rank does; returns the file."""
    part = run.part(task, attempt, rank)
    if not part.exists():
        writer = PartWriter(part)
        writer.write_records(records)
        writer.close()
    else:
        with (part / RECORDS).open("ab") as file:
            file.writelines(one.to_line() for one in records)
    return part / RECORDS


def of_lines(run: RunDir, *, whole: bool = False) -> set[str]:
    return {one["recipe"] for _, one in scan_documents(run) if not (whole and one["quarantined"])}


@pytest.fixture
def no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may read a line."""

    def refuse(path: Path) -> Iterator[bytes]:
        raise AssertionError(path)

    monkeypatch.setattr(record_tables, "record_texts", refuse)


# --- random histories ---------------------------------------------------------------------------------------------

EVENT = st.sampled_from(
    ["records", "records", "records", "table", "table", "kill", "merge", "damage a table", "damage a line", "delete",
     "touch", "plan again"]
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(EVENT, st.integers(0, 11), st.integers(0, 2)), max_size=14))
def test_tables_say_what_the_lines_say(history: list[tuple[str, int, int]]) -> None:
    with TemporaryDirectory() as folder:
        run, files, merged = RunDir(Path(folder)), "a", False
        for step, (event, number, missing) in enumerate(history):
            task, rank = number % TASKS, number % 2
            attempt, paths = f"{number // 6}-0", sorted(run.parts.glob(f"*/*/*/{RECORDS}"))
            tables = [*run.recorded(), *run.recorded_of_attempts()]
            if event == "records":
                # before a table is made for a plan, tasks may have been others
                of_task = task if merged else step % TASKS
                write(run, task, attempt, rank, record(recipe_of_task(of_task, number % 4), missing, attempt))
            elif event == "table":
                write_table(run, task, attempt, 0, range(2))
            elif event == "merge":
                merge_recorded(run, plan_of(files))
                merged = True
            elif event == "plan again":
                files, merged = files + "b", False
            elif event == "damage a table" and tables:
                damage(tables[number % len(tables)], step)
            elif paths:
                change(event, paths[number % len(paths)], step)
            truth, whole = of_lines(run), of_lines(run, whole=True)
            assert recorded_recipes(run) == truth
            assert recorded_recipes(run, whole=True) == whole
            for one in range(TASKS):
                recipes = [recipe_of_task(one, number) for number in range(4)]
                found = recorded_of_task(run, plan_of(files), one, recipes, whole=False).recipes
                assert found == truth & set(recipes)
                found = recorded_of_task(run, plan_of(files), one, recipes, whole=True).recipes
                assert found == whole & set(recipes)
        compare_rows(run)


def change(event: str, path: Path, step: int) -> None:
    if event == "kill":
        with path.open("ab") as file:
            file.write(record("c" * 64).to_line()[:200])
    elif event == "damage a line":
        damage(path, step)
    elif event == "touch":
        os.utime(path, ns=(step, step))
    elif event == "delete":
        shutil.rmtree(path.parent)


def damage(path: Path, step: int) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * (step % 7) // 7] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(10**18 + step, 10**18 + step))  # the clock of a file system may tick slowly


def compare_rows(run: RunDir) -> None:
    """The best row of each recipe has what its best record has."""
    names = ("recipe", "whole", "quarantined", "refused", "not_held", "attempt", "job", "started", "finished", COUNTS)
    recipes = sorted(of_lines(run))
    rows = best_rows(read_recorded(run, names), texts(recipes)).to_pylist()
    documents = best_documents(run, recipes, ("not_held", "counts", "job"))
    assert [row["recipe"] for row in rows] == recipes
    for row in rows:
        document = documents[row["recipe"]]
        assert (json.loads(row["quarantined"]) if row["quarantined"] else []) == document["quarantined"]
        assert (json.loads(row["not_held"]) if row["not_held"] else {}) == document["not_held"]
        assert row["whole"] == (not document["quarantined"])
        assert {"valid": row["counts.valid"], "chips": row["counts.chips"]} == document["counts"]
        assert (row["started"], row["finished"]) == (1_767_225_600_123, 1_767_225_601_456)


# --- single cases -------------------------------------------------------------------------------------------------


def test_each_attempt_leaves_a_table_of_all_its_records(finished_demo: Campaign, no_lines: None) -> None:
    run = finished_demo.run
    assert recorded_recipes(run) == of_lines(run) != set()
    assert len(run.recorded_of_attempts()) == len({path.parent.parent for path in run.parts.glob(f"*/*/*/{RECORDS}")})


def test_a_task_reads_the_merged_table_and_its_own_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, looked_at = RunDir(tmp_path), set[str]()
    recipes = [recipe_of_task(0, number) for number in range(4)]
    for attempt in ("1-0", "2-0"):
        for task in range(TASKS):
            write(run, task, attempt, 0, record(recipe_of_task(task, int(attempt[0])), attempt=attempt))
        if attempt == "1-0":
            merge_recorded(run, plan_of())
    look = record_tables.note

    def noted(run: RunDir, part: str) -> record_tables.NotedPart | None:
        looked_at.add(part)
        return look(run, part)

    monkeypatch.setattr(record_tables, "note", noted)
    monkeypatch.setattr(recorded, "note", noted)
    assert recorded_of_task(run, plan_of(), 0, recipes, whole=False).recipes == {*recipes[1:3]}
    assert looked_at == {"0000/1-0/0000", "0000/2-0/0000"}
    # of another plan its shards may have been those of any task
    assert recorded_of_task(run, plan_of("other"), 0, recipes, whole=False).recipes == {*recipes[1:3]}
    assert len(looked_at) == 2 * TASKS


def test_what_came_from_other_runs_and_the_pilot_after_the_merge_is_found(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    merge_recorded(run, plan_of())
    recipes = [recipe_of_task(0, number) for number in range(2)]
    write(run, TASKS, "1-0", 0, record(recipes[0]))
    adopted = PartWriter(run.adopted_part("start", 0))
    adopted.write_records([record(recipes[1])])
    adopted.close()
    assert recorded_of_task(run, plan_of(), 0, recipes, whole=False).recipes == {*recipes}


def test_crashes_are_found_whichever_task_had_them(tmp_path: Path) -> None:
    run, crash = RunDir(tmp_path), Crash(host="a", signal=9, shards=("a" * 64,), alone=True)
    write_crash(run.part(2, "1-0", 0), crash)
    merge_recorded(run, plan_of())
    write_crash(run.part(0, "2-0", 0), crash)
    assert recorded_of_task(run, plan_of(), 0, (), whole=False).crashes == tuple(crash_files(run))
    assert len(crash_files(run)) == 2


def test_a_damaged_table_is_named_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path)
    write(run, 0, "1-0", 0, record("a" * 64), record("b" * 64))
    write_table(run, 0, "1-0", 0, [0])
    (table,) = run.recorded_of_attempts()
    whole = table.read_bytes()
    for data in (b"", whole[:-9], whole[:40] + b"\0" + whole[41:]):
        caplog.clear()
        table.write_bytes(data)
        assert recorded_recipes(run) == {"a" * 64, "b" * 64}
        assert f"{table}: damaged" in caplog.text


def test_a_table_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    write(run, 0, "1-0", 0, record("a" * 64))
    monkeypatch.setattr(record_tables, "_FORMAT", "00000000")
    write_table(run, 0, "1-0", 0, [0])
    monkeypatch.undo()
    (run.part(0, "1-0", 0) / RECORDS).write_bytes(b"")
    os.utime(run.part(0, "1-0", 0) / RECORDS, ns=(0, 0))
    assert len(run.recorded_of_attempts()) == 1
    assert recorded_recipes(run) == set()


def test_a_line_that_is_damaged_after_its_table_is_embedded_again(embedded: Campaign) -> None:
    """Size and time of the file are those that were noted: consolidation, which reads all lines, finds it."""
    run, recipe = embedded.run, planned_records(embedded)[0].recipe
    (path,) = [path for path in run.parts.glob(f"*/*/*/{RECORDS}") if recipe in path.read_text()]
    facts, data = path.stat(), path.read_bytes()
    path.write_bytes(data.replace(recipe.encode(), b"f" * 64))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert recipe in recorded_recipes(run)
    with pytest.raises(WorkError, match=r"1 of [0-9]+ shards have no record.*; run `embedcube embed` again"):
        embedded.cli("consolidate")
    assert recipe not in recorded_recipes(run) == of_lines(run)


def test_a_task_that_looks_while_submit_merges_finds_the_new_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipes = RunDir(tmp_path), [recipe_of_task(0, number) for number in range(2)]
    write(run, 1, "1-0", 0, record(recipes[0]))
    merge_recorded(run, plan_of())
    read, calls = record_tables.read_table, list[Path]()

    def replaced_meanwhile(path: Path, names: Any) -> Any:
        if not calls:
            write(run, 1, "2-0", 0, record(recipes[1]))
            merge_recorded(run, plan_of())
            assert not path.exists()
        calls.append(path)
        return read(path, names)

    monkeypatch.setattr(recorded, "read_table", replaced_meanwhile)
    assert recorded_of_task(run, plan_of(), 0, recipes, whole=False).recipes == {*recipes}
    assert len(set(calls)) == 2


def test_a_merge_without_news_writes_the_same_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run, 0, "1-0", 0, record("a" * 64))
    write(run, 1, "1-0", 0, record("b" * 64))
    merge_recorded(run, plan_of())
    before = [(path.name, path.stat().st_ino) for path in run.recorded()]
    merge_recorded(run, plan_of())
    assert [(path.name, path.stat().st_ino) for path in run.recorded()] == before
    forget_tables(run)
    assert run.recorded() == []
    assert recorded_recipes(run) == {"a" * 64, "b" * 64}


def test_a_part_that_is_written_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    part = write(RunDir(tmp_path), 0, "1-0", 0, record("a" * 64)).parent
    with (part / RECORDS).open("ab") as file:
        file.write(record("b" * 64).to_line()[:-1])
    assert recorded_in(part) == {"a" * 64}
    assert recorded_in(part.with_name("0001")) == set()
