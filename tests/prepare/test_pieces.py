"""A plan that is made in small pieces, and written as several files, is the plan that is made at once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tests.conftest import Campaign

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import (
    Plan,
    digest_of_digests,
    digest_of_recipes,
    planned_scenes,
    read_plan,
    read_plan_columns,
    read_recipes,
    read_shards,
    tasks_undone,
    write_pilot,
)
from embedcube.errors import RequestError
from embedcube.prepare import pieces, write_plan
from embedcube.prepare.fit import fit
from embedcube.prepare.index import index
from embedcube.prepare.plan import plan

TASKS = 5
COLUMNS = ("layer", "zone", "t", "row", "col", "recipe", "scenes", "cost", "group", "task", "draw")


@pytest.fixture(scope="module")
def prepared(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo with small shards, indexed and fitted. No test changes it."""
    campaign = Campaign(tmp_path_factory.mktemp("pieces") / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)

    def smaller(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(demo_archive / "archive" / "sentinel2")
        document["how"].update(threads=1, ranks=1, tasks=TASKS)
        document["layers"]["s2_mosaiks"]["shard_chips"] = 1

    campaign.change(smaller)
    campaign.run.root.mkdir(parents=True)
    loaded = load_campaign(campaign.file)
    index(loaded, campaign.run)
    fit(loaded, campaign.run)
    return campaign


@pytest.fixture
def mine(prepared: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """A copy to plan in, where a batch takes the same time whenever it is measured."""
    monkeypatch.setattr("embedcube.prepare.plan.seconds_per_batch", lambda *_: 0.25)
    copy = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(prepared.file, copy.file)
    shutil.copytree(prepared.run.root, copy.run.root)
    return copy


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of some rows of a window, and files of about a hundred shards."""
    monkeypatch.setattr(pieces, "LINKS_AT_ONCE", 60)
    monkeypatch.setattr(pieces, "WHOLE_ROWS", 16)
    monkeypatch.setattr(write_plan, "ROWS_IN_FILE", 100)
    monkeypatch.setattr(write_plan, "_ROWS_AT_ONCE", 16)


def planned(campaign: Campaign) -> Plan:
    """Make the plan in this process."""
    return plan(load_campaign(campaign.file), campaign.run)


def rows(campaign: Campaign, made: Plan) -> list[dict[str, Any]]:
    """All rows of the plan, in its order."""
    found: list[dict[str, Any]] = read_plan_columns(campaign.run, made, COLUMNS).to_pylist()
    return found


def facts(made: Plan) -> dict[str, Any]:
    """What plan.json says, but for its files."""
    return {name: value for name, value in made.summary.items() if name not in ("files", "tasks_of")}


def test_a_plan_in_pieces_is_the_plan_at_once(mine: Campaign, request: pytest.FixtureRequest) -> None:
    once = planned(mine)
    expected, scenes = rows(mine, once), read_inventory(load_campaign(mine.file), mine.run)
    by_task = [read_shards(mine.run, once, task) for task in range(TASKS)]
    needed = [planned_scenes(mine.run, once, scenes, task) for task in (None, *range(TASKS))]
    write_pilot(mine.run, once, [7, 200, 2, 150])
    pilot = read_shards(mine.run, once, TASKS)
    assert [*once.files] == ["plan.parquet"]
    request.getfixturevalue("small")
    several = planned(mine)
    assert len(several.files) > 3
    assert not mine.run.plan.exists()
    assert facts(several) == facts(once)
    assert rows(mine, several) == expected
    assert several == read_plan(load_campaign(mine.file), mine.run)
    assert [read_shards(mine.run, several, task) for task in range(TASKS)] == by_task
    assert [planned_scenes(mine.run, several, scenes, task) for task in (None, *range(TASKS))] == needed
    done = set(read_recipes(mine.run, several, 3))
    assert tasks_undone(mine.run, several, done) == (0, 1, 2, 4)
    write_pilot(mine.run, several, [7, 200, 2, 150])
    assert read_shards(mine.run, several, TASKS) == pilot
    again = planned(mine)
    assert {path.name for path in mine.run.plan_folder.iterdir()} == {Path(name).name for name in again.files}


def test_pieces_are_those_of_the_whole(mine: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedcube.campaign.zones import zones_of
    from embedcube.prepare.shards import cut, cut_in_pieces

    loaded = load_campaign(mine.file)
    scenes = read_inventory(loaded, mine.run)
    [grid] = zones_of(loaded, "s2_mosaiks", scenes).values()
    whole = cut(loaded, "s2_mosaiks", grid, scenes)
    assert whole is not None
    monkeypatch.setattr(pieces, "LINKS_AT_ONCE", 60)
    monkeypatch.setattr(pieces, "WHOLE_ROWS", 2)
    found = cut_in_pieces(loaded, "s2_mosaiks", grid, scenes)
    assert found is not None
    assert len([*found[0]]) > 2 * found[0].windows, "windows are divided"
    for one in (found[0], pieces.Pieces.of(whole[0])):
        together = one.whole()
        assert len(one) == len(whole[0].t)
        for name in ("t", "row", "col", "first", "scenes"):
            np.testing.assert_array_equal(getattr(together, name), getattr(whole[0], name))
    for piece in found[0]:
        assert (piece.row.min() - whole[0].row.min()) % 2 == 0, "no draw group is torn"


@pytest.mark.usefixtures("small")
def test_a_task_reads_only_its_own_files(mine: Campaign) -> None:
    made = planned(mine)
    names = made.files_of(0)
    assert 0 < len(names) < len(made.files)
    for name in set(made.files) - set(names):
        (mine.run.root / name).write_bytes(b"")
    assert read_shards(mine.run, made, 0)
    with pytest.raises(RequestError, match=r"plan/.*: damaged or replaced, .* run `embedcube plan` again"):
        read_recipes(mine.run, made)
    groups = pyarrow.parquet.ParquetFile(mine.run.root / names[0]).metadata
    bounds = [groups.row_group(i).column(9).statistics for i in range(groups.num_row_groups)]
    assert len(bounds) > 1
    assert all(one.min == one.max for one in bounds), "a row group is of one task"
    data = bytearray((mine.run.root / names[0]).read_bytes())
    data[len(data) // 2] ^= 1
    (mine.run.root / names[0]).write_bytes(data)
    with pytest.raises(RequestError, match=r"damaged or replaced, .* run `embedcube plan` again"):
        read_shards(mine.run, made, 0)
    (mine.run.root / names[0]).unlink()
    with pytest.raises(RequestError, match="no such file any more; run `embedcube plan` again"):
        read_shards(mine.run, made, 0)


@pytest.mark.usefixtures("small")
def test_a_plan_that_is_killed_leaves_the_last_one(mine: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(mine)
    before, kept = rows(mine, first), {*mine.run.plan_folder.iterdir()}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write_plan, "write_sealed", killed)
        with pytest.raises(KeyboardInterrupt):
            planned(mine)
    assert read_plan(load_campaign(mine.file), mine.run) == first
    assert rows(mine, first) == before
    assert {*mine.run.plan_folder.iterdir()} == kept, "what can be removed is"
    # a process that is killed at once removes nothing: the next plan does
    left = {mine.run.root / mine.run.plan_file("0" * 12, 0), mine.run.plan_folder / ".tmp-left"}
    for path in left:
        path.write_bytes(b"half")
    planned(mine)
    assert not (left | kept) & {*mine.run.plan_folder.iterdir()}


@pytest.mark.usefixtures("small")
def test_of_two_plans_at_once_the_first_that_ends_stands(mine: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    made, begun, written = list[Plan](), list[bool](), write_plan._write_files

    def with_another(*given: Any) -> dict[str, str]:
        files = written(*given)
        begun.append(True)
        if len(begun) == 1:
            made.append(planned(mine))
        return files

    with monkeypatch.context() as patch:
        patch.setattr(write_plan, "_write_files", with_another)
        with pytest.raises(RequestError, match="is gone: another `plan` works on this run folder"):
            planned(mine)
    assert read_plan(load_campaign(mine.file), mine.run) == made[0]
    assert len(read_recipes(mine.run, made[0])) == made[0].shards


def test_a_small_plan_after_a_large_one_is_one_file(mine: Campaign, request: pytest.FixtureRequest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_plan, "ROWS_IN_FILE", 100)
        planned(mine)
    assert mine.run.plan_folder.exists()
    made = planned(mine)
    assert [*made.files] == ["plan.parquet"]
    assert not mine.run.plan_folder.exists()
    # as plans were before there were several files
    assert json.loads(mine.run.plan_summary.read_text())["tasks_of"] == {}
    assert len(read_recipes(mine.run, made)) == made.shards


def recipes_for_digest() -> Iterator[list[str]]:
    rng = np.random.default_rng(0)
    random = rng.integers(0, 256, (1000, 32), dtype=np.uint8)
    yield [one.tobytes().hex() for one in random]
    random[:, :8] = random[0, :8]  # all their beginnings are equal
    random[7] = random[8]
    yield [one.tobytes().hex() for one in random]


@pytest.mark.parametrize("recipes", [*recipes_for_digest()], ids=["random", "equal beginnings"])
def test_the_digest_of_recipes_as_bytes_is_that_of_their_text(recipes: list[str]) -> None:
    as_bytes = np.frombuffer(bytes.fromhex("".join(recipes)), dtype=np.uint8).reshape(-1, 32)
    assert digest_of_digests(as_bytes) == digest_of_recipes(recipes)
