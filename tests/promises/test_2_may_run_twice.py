"""May run twice: whatever is killed, wherever and however often, the next start does the rest and no byte differs.

Nothing in the package helps these tests. They kill from outside: by the clock, or through `chaos/sitecustomize.py`,
which every process of a run imports and which ends the one that is meant at the point that is named.
"""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.chaos import errors
from tests.chaos.kill_point import KillPoint
from tests.conftest import Campaign, call_cli, cube_bytes, planned_records, read_stored, run_cli

from embedcube.campaign.base import Base
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PACK, RECORDS, PartWriter, Record, scan_records
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir
from embedcube.campaign.seals import from_line, to_line
from embedcube.campaign.verdicts import Verdicts
from embedcube.consolidate.adopt import Adopted, adopt_all
from embedcube.consolidate.consolidate import consolidate
from embedcube.consolidate.verify import verify_cube
from embedcube.errors import WorkError

pytestmark = pytest.mark.chaos

EMBEDCUBE = Path(sys.executable).parent / "embedcube"
KILLED, START_AGAIN = -signal.SIGKILL, 75
TIMEOUT_S = 300
PIPELINE_DEPTH = 5
"""shards that a rank may hold at once: read, waiting, embedded, waiting, written"""


@contextmanager
def running(campaign: Campaign, verb: str, kill: KillPoint | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A verb in a process group of its own; of that group nothing is alive after the block."""
    environment = os.environ | (kill.environment() if kill is not None else {})
    process = subprocess.Popen(
        [EMBEDCUBE, verb, campaign.file],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_S)
        wait_until(lambda: not alive_in(process.pid), "the killed processes are gone")


def run_and_die(campaign: Campaign, verb: str, kill: KillPoint) -> tuple[int, str]:
    """Run a verb that is to be killed at `point`; returns its exit code and its stderr."""
    with running(campaign, verb, kill) as process:
        _, said = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, said


def statuses_in(group: int) -> list[str]:
    """What the processes of a group do: run, sleep, are stopped or dead."""
    statuses: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group:
                statuses.append(process.status())
    return statuses


def alive_in(group: int) -> bool:
    """Is any process of the group alive?"""
    return any(status != psutil.STATUS_ZOMBIE for status in statuses_in(group))


def wait_until(done: Callable[[], object], what: str) -> None:
    """Look every few milliseconds; the test fails when it does not come true."""
    end = time.monotonic() + TIMEOUT_S
    while not done():
        assert time.monotonic() < end, f"after {TIMEOUT_S} s still not: {what}"
        time.sleep(0.02)


def wait_for(process: "subprocess.Popen[str]", sign: Callable[[], object]) -> None:
    """Until there is a sign of work, or the process has ended."""
    wait_until(lambda: sign() or process.poll() is not None, "a sign of work")


def record_files(run: RunDir) -> set[Path]:
    """One for each rank that has recorded something."""
    return set(run.parts.glob(f"*/*/*/{RECORDS}"))


def attempts(run: RunDir) -> dict[str, list[str]]:
    """Per attempt the recipes of its complete records."""
    found: dict[str, list[str]] = {folder.name: [] for folder in run.parts.glob("*/*")}
    for part, record in scan_records(run):
        found[part.parent.name].append(record.recipe)
    return found


def planned_recipes(campaign: Campaign) -> set[str]:
    """What has to be embedded, in the first round and in the present one."""
    plan = read_plan(load_campaign(campaign.file), campaign.run)
    rounds = replace(plan, verdicts=Verdicts()), plan
    return {shard.recipe for now in rounds for group in read_shards(campaign.run, now) for shard in group}


def twin(campaign: Campaign, folder: Path, *, parts: bool = False) -> Campaign:
    """The campaign in another folder: planned and not begun, or with all its parts; without a cube."""
    left_out = ["cubes", "cube.zarr", "report", "logs", *([] if parts else ["parts", "verdicts.json"])]
    folder.mkdir(parents=True, exist_ok=True)
    other = Campaign(folder / "campaign.yaml")
    archive = load_campaign(campaign.file).archives["s2"].path
    shutil.copy(campaign.file, other.file)
    other.change(lambda document: document["archives"]["s2"].update(path=str(archive)))
    shutil.copytree(campaign.run.root, other.run.root, ignore=shutil.ignore_patterns(*left_out))
    return other


def assert_same_cube(campaign: Campaign, undisturbed: Campaign) -> None:
    """The newest cubes of two campaigns are equal, byte for byte."""
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(undisturbed.run.newest_cube)


def assert_nothing_done_twice(campaign: Campaign) -> None:
    """Every recipe of the plan has exactly one record over all attempts."""
    done = Counter(recipe for recipes in attempts(campaign.run).values() for recipe in recipes)
    assert done == Counter(planned_recipes(campaign))


def assert_records_hold(run: RunDir) -> None:
    """All bytes that a record speaks of are on disk as the record says."""
    for part, record in scan_records(run):
        for stored in (*record.arrays, record.fed):
            read_stored(part, stored)


@pytest.fixture
def planned(finished_demo: Campaign, tmp_path: Path) -> Campaign:
    """The demo, planned; 30 shards are to be embedded."""
    return twin(finished_demo, tmp_path / "planned")


@pytest.fixture
def embedded(finished_demo: Campaign, tmp_path: Path) -> Campaign:
    """The demo with all its parts and no cube."""
    return twin(finished_demo, tmp_path / "embedded", parts=True)


@pytest.fixture(scope="module")
def small(finished_demo: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo cut into 270 shards of one chip, planned."""
    campaign = twin(finished_demo, tmp_path_factory.mktemp("small"))
    campaign.change(lambda document: document["layers"]["s2_mosaiks"].update(shard_chips=1))
    campaign.cli("plan")
    return campaign


@pytest.fixture(scope="module")
def finished_small(small: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The same, embedded and consolidated without any disturbance."""
    campaign = twin(small, tmp_path_factory.mktemp("finished_small"))
    campaign.cli("embed")
    campaign.cli("consolidate")
    return campaign


# --- embed, at named points -----------------------------------------------------------------------


def shards_of(run: RunDir) -> set[bytes]:
    """Each recorded shard as it stands in a pack: its arrays, and what its scenes contributed."""
    return {
        b"".join(read_stored(part, stored) for stored in (*record.arrays, record.fed))
        for part, record in scan_records(run)
    }


def unrecorded(part: Path) -> bytes:
    """What a pack holds behind the last shard that has a record."""
    ends = [stored["offset"] + stored["size"] for line in complete_lines(part) for stored in stored_in(line)]
    return (part / PACK).read_bytes()[max(ends) :]


def stored_in(line: bytes) -> list[dict[str, Any]]:
    document = json.loads(line)
    return [*document["arrays"], document["fed"]]


def has_torn_shard(part: Path, shards: set[bytes]) -> bool:
    """The pack ends within a shard, and no record speaks of it."""
    torn = unrecorded(part)
    return torn != b"" and any(len(torn) < len(shard) and shard.startswith(torn) for shard in shards)


def has_unrecorded_shard(part: Path, shards: set[bytes]) -> bool:
    """The pack ends with a whole shard, and nothing of a record speaks of it."""
    return unrecorded(part) in shards and (part / RECORDS).read_bytes().endswith(b"\n")


def has_torn_record(part: Path, shards: set[bytes]) -> bool:
    """The pack ends with a whole shard, and half a record speaks of it."""
    last = (part / RECORDS).read_bytes().splitlines(keepends=True)[-1]
    return unrecorded(part) in shards and len(last) > 100 and not last.endswith(b"\n")


def complete_lines(part: Path) -> list[bytes]:
    return [line for line in (part / RECORDS).read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


@dataclass(frozen=True)
class Named:
    """A kill point of a rank, and how the disk shows that it was met there."""

    point: KillPoint
    evidence: Callable[[Path, set[bytes]], bool]


PACKED = rf"/parts/.*/{PACK}$"
IN_SECOND_SHARD = 7
"""number of a piece of data in a pack: a shard has five at most, of four arrays and of what its scenes contributed"""

EMBED_POINTS = {
    "half an array": Named(KillPoint(rank="1", path=PACKED, nth=IN_SECOND_SHARD, moment="half"), has_torn_shard),
    "written but not recorded": Named(KillPoint(rank="1", path=rf"/{RECORDS}$", nth=2), has_unrecorded_shard),
    "half a record": Named(KillPoint(rank="1", path=rf"/{RECORDS}$", nth=2, moment="half"), has_torn_record),
}


@pytest.mark.slow
@pytest.mark.parametrize("named", EMBED_POINTS.values(), ids=EMBED_POINTS.keys())
def test_embed_killed_at_a_named_point_does_the_rest_and_no_more(
    named: Named, planned: Campaign, finished_demo: Campaign
) -> None:
    """First all processes die there, in the restart one rank alone, then a plain restart finishes."""
    run, everything, shards = planned.run, planned_recipes(planned), shards_of(finished_demo.run)

    code, _ = run_and_die(planned, "embed", replace(named.point, group=True))
    assert code == KILLED
    [first] = attempts(run)
    assert named.evidence(run.part(0, first, 1), shards)
    after_first = recorded_recipes(run)
    assert 0 < len(after_first) < len(everything)

    code, said = run_and_die(planned, "embed", named.point)
    assert code == START_AGAIN
    assert re.search(r"rank 1 on node \S+ was killed by SIGKILL \(out of memory\?\) while it held s2_mosaiks/", said)
    assert "start the same command again" in said
    [second] = attempts(run).keys() - {first}
    assert named.evidence(run.part(0, second, 1), shards)
    after_second = recorded_recipes(run)
    assert set(attempts(run)[second]) == after_second - after_first
    assert after_first < after_second < everything

    planned.cli("embed")
    # two attempts within one second have names in any order
    later = {frozenset(recipes) for name, recipes in attempts(run).items() if name not in (first, second)}
    assert later == {frozenset(everything - after_second), frozenset(planned_recipes(planned) - everything)}
    assert_nothing_done_twice(planned)
    planned.cli("consolidate")
    assert_same_cube(planned, finished_demo)


@pytest.mark.slow
def test_a_retry_of_unreadable_scenes_that_is_killed_leaves_its_shards_undone(embedded: Campaign) -> None:
    """They have a record of before, which is no reason to call the retry done."""
    embedded.change(lambda document: document["how"].update(retry_quarantined=True, ranks=1))
    with_torn = {record.recipe for _, record in scan_records(embedded.run) if record.quarantined}
    embedded.run.verdicts.unlink()  # as the retry does: all scenes are read again
    everything = planned_recipes(embedded)
    missed = with_torn & everything
    assert len(missed) > 3
    before = attempts(embedded.run)
    point = KillPoint(rank="0", path=PACKED, nth=IN_SECOND_SHARD, moment="half")
    code, said = run_and_die(embedded, "embed", point)
    assert code == START_AGAIN
    [retry] = attempts(embedded.run).keys() - before.keys()
    done = attempts(embedded.run)[retry]
    assert 0 < len(done) < len(missed)
    assert f"{len(missed) - len(done)} of {len(everything)} shards are undone" in said

    embedded.cli("embed")
    [last] = attempts(embedded.run).keys() - before.keys() - {retry}
    assert set(attempts(embedded.run)[last]) == missed, "the scene is still torn: all of them, and nothing else"


def _has_verdicts(run: RunDir) -> bool:
    return run.verdicts.exists()


def _has_table(run: RunDir) -> bool:
    return bool(run.recorded_of_attempts())


_VERDICTS, _TABLE = r"/verdicts\.json$", r"/recorded-0000-\w+\.parquet$"
BEFORE_OR_AFTER = {
    "between two rounds, before the verdicts are there": (KillPoint(event="os.rename", path=_VERDICTS), _has_verdicts),
    "between two rounds, after": (KillPoint(event="os.rename", path=_VERDICTS, moment="after"), _has_verdicts),
    "before the table of records is there": (KillPoint(event="os.rename", path=_TABLE), _has_table),
    "after the table of records is there": (KillPoint(event="os.rename", path=_TABLE, moment="after"), _has_table),
}


@pytest.mark.slow
@pytest.mark.parametrize(("point", "is_there"), BEFORE_OR_AFTER.values(), ids=BEFORE_OR_AFTER.keys())
def test_embed_killed_at_what_a_parent_writes_embeds_nothing_twice(
    point: KillPoint, is_there: Callable[[RunDir], bool], planned: Campaign, finished_demo: Campaign
) -> None:
    code, said = run_and_die(planned, "embed", point)
    assert code == KILLED, said
    assert is_there(planned.run) is (point.moment == "after")
    planned.cli("embed")
    assert_nothing_done_twice(planned)
    planned.cli("consolidate")
    assert_same_cube(planned, finished_demo)


MEETING = {
    "before the weights are broadcast": KillPoint(rank="1", event="open", path=r"/campaign\.yaml$"),
    "while rank 0 reads the weights": KillPoint(rank="0", event="open", path=r"\.safetensors$"),
}


@pytest.mark.slow
@pytest.mark.parametrize("point", MEETING.values(), ids=MEETING.keys())
def test_ranks_do_not_wait_for_one_that_died_before_they_met(point: KillPoint, planned: Campaign) -> None:
    """Without a check, the other ranks would wait ten minutes for it, and then fail with an error of torch."""
    code, said = run_and_die(planned, "embed", point)
    assert (code, recorded_recipes(planned.run)) == (START_AGAIN, set())
    assert "start the same command again" in said


@pytest.mark.slow
def test_embed_asked_to_stop_does_not_wait_for_ranks_that_never_meet(planned: Campaign) -> None:
    """One rank is stopped before the broadcast, so that the others wait in it and do not react to SIGTERM either."""
    point = KillPoint(rank="1", event="open", path=r"/campaign\.yaml$", signal=signal.SIGSTOP)
    with running(planned, "embed", point) as process:
        wait_for(process, lambda: psutil.STATUS_STOPPED in statuses_in(process.pid))
        process.terminate()
        _, said = process.communicate(timeout=TIMEOUT_S)
        assert not alive_in(process.pid), "ranks outlive their parent"
    assert process.returncode == START_AGAIN, said
    assert "start the same command again" in said


# --- embed, at random moments ---------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    delay_s: float
    after_first_record: bool
    """else after the start"""


@dataclass(frozen=True)
class Kill:
    """What a kill found."""

    recorded: int
    """by the attempt that was killed"""
    left: int
    """without a record when that attempt began"""

    @property
    def between_records(self) -> bool:
        """The attempt had written its first record, and would have written more."""
        return 0 < self.recorded < self.left


def kill_embed(campaign: Campaign, moment: Moment, everything: set[str]) -> Kill | None:
    """Start `embed` and kill its process group at the moment; None if it had ended before."""
    run = campaign.run
    before, files, left = attempts(run), record_files(run), everything - recorded_recipes(run)

    with running(campaign, "embed") as process:
        if moment.after_first_record:
            wait_for(process, lambda: record_files(run) > files)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment.delay_s)
    if process.returncode == 0:
        return None
    assert process.returncode == KILLED
    assert_records_hold(run)
    recorded = [recipe for name, recipes in attempts(run).items() if name not in before for recipe in recipes]
    assert set(recorded) <= left, "it did what was done"
    return Kill(len(recorded), len(left))


@dataclass(frozen=True, kw_only=True)
class Ordeal:
    """Campaigns that were killed and started again, and what the kills found."""

    campaigns: list[Campaign] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)


def kill_again_and_again(
    planned: Campaign, everything: set[str], folder: Path, ranks: int, moments: list[Moment]
) -> Ordeal:
    """Kill a campaign at one moment after the other; where it is done too soon, go on with the next campaign."""
    ordeal = Ordeal()
    while len(ordeal.kills) < len(moments):
        campaign = twin(planned, folder / f"{ranks}-{len(ordeal.campaigns)}")
        campaign.change(lambda document: document["how"].update(ranks=ranks))
        ordeal.campaigns.append(campaign)
        while len(ordeal.kills) < len(moments) and recorded_recipes(campaign.run) < everything:
            kill = kill_embed(campaign, moments[len(ordeal.kills)], everything)
            ordeal.kills.extend([kill] if kill else [])
    return ordeal


@pytest.mark.slow
def test_twenty_random_kills_change_no_byte(small: Campaign, finished_small: Campaign, tmp_path: Path) -> None:
    """Two campaigns side by side, with one rank and with two; at least ten kills fall between two records."""
    draw = random.Random(20)
    moments = [Moment(draw.uniform(0, 1.5), True) for _ in range(16)]
    moments += [Moment(draw.uniform(0, 8), False) for _ in range(4)]
    draw.shuffle(moments)
    with ThreadPoolExecutor() as pool:
        everything = planned_recipes(finished_small)
        begun = [
            pool.submit(kill_again_and_again, small, everything, tmp_path, ranks, moments[ranks - 1 :: 2])
            for ranks in (1, 2)
        ]
        ordeals = [half.result() for half in begun]
    kills = [kill for ordeal in ordeals for kill in ordeal.kills]
    between = sum(kill.between_records for kill in kills)
    print(f"{len(kills)} kills, {between} of them between the first and the last record of their attempt: {kills}")
    assert len(kills) == 20
    assert between >= 10
    for campaign in (campaign for ordeal in ordeals for campaign in ordeal.campaigns):
        campaign.cli("embed")
        assert_nothing_done_twice(campaign)
        campaign.cli("consolidate")
        assert_same_cube(campaign, finished_small)


# --- embed, asked to stop -------------------------------------------------------------------------


@pytest.mark.slow
def test_embed_asked_to_stop_says_start_again(planned: Campaign, finished_demo: Campaign) -> None:
    """SIGTERM to the parent, as `kill` sends it; then SIGINT to all, as Ctrl-C does; then the rest."""
    everything = planned_recipes(planned)
    for ask, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)):
        before, files = recorded_recipes(planned.run), record_files(planned.run)
        with running(planned, "embed") as process:
            wait_for(process, lambda files=files: record_files(planned.run) > files)  # type: ignore[misc]
            ask(process.pid, number)
            _, said = process.communicate(timeout=TIMEOUT_S)
            assert not alive_in(process.pid), "ranks outlive their parent"
        assert process.returncode == START_AGAIN, said
        assert "start the same command again" in said
        for records in record_files(planned.run):
            assert records.read_bytes().endswith(b"\n"), "a rank was not left the time to finish its record"
        assert before < recorded_recipes(planned.run) < everything
    planned.cli("embed")
    assert_nothing_done_twice(planned)
    planned.cli("consolidate")
    assert_same_cube(planned, finished_demo)


@pytest.mark.slow
def test_ranks_without_their_parent_finish_what_they_hold_and_end(small: Campaign, tmp_path: Path) -> None:
    """Otherwise they would go on beside those of the next start, for as long as their group of shards lasts."""
    campaign = twin(small, tmp_path / "orphaned")
    run = campaign.run
    with running(campaign, "embed") as process:
        wait_for(process, lambda: record_files(run))
        process.kill()
        process.wait()
        at_kill = len(recorded_recipes(run))
        wait_until(lambda: not alive_in(process.pid), "the ranks have ended")
    assert at_kill < len(planned_recipes(campaign)) - 100
    assert len(recorded_recipes(run)) - at_kill <= 2 * PIPELINE_DEPTH
    assert_records_hold(run)
    for records in record_files(run):
        assert records.read_bytes().endswith(b"\n")


# --- consolidate ----------------------------------------------------------------------------------

OBJECT = rf"/{TEMPORARY_PREFIX}[\w.-]+\.zarr/.*/c\.[\d.]+$"
OBJECT_IN_WORK = rf"/{TEMPORARY_PREFIX}c\.[\d.]+\.\w+$"

CONSOLIDATE_POINTS = {
    "half of the template": KillPoint(event="os.rename", path=rf"/{TEMPORARY_PREFIX}[\w.-]+\.zarr/zarr\.json$"),
    "half an object": KillPoint(path=OBJECT_IN_WORK, nth=3, moment="half"),
    "an object before its rename": KillPoint(event="os.rename", path=OBJECT, nth=2),
    "some objects": KillPoint(event="os.rename", path=OBJECT, nth=2, moment="after"),
    "before provenance": KillPoint(event="os.mkdir", path=r"\.zarr/provenance"),
    "half of provenance": KillPoint(event="os.rename", path=r"\.zarr/provenance/shard_record/"),
    "before the cube's rename": KillPoint(event="os.rename", path=r"/cubes/\w+\.zarr$"),
    "before the symlink": KillPoint(event="os.symlink", path=r"cube\.zarr"),
    "before the symlink's rename": KillPoint(event="os.rename", path=r"/cube\.zarr$"),
}
"""in the order in which `consolidate` comes by them"""

MADE = ("half an object", "an object before its rename", "some objects")
LINKED = KillPoint(event="os.link", path=OBJECT, nth=3)


@pytest.mark.slow
@pytest.mark.parametrize("linked", [False, True], ids=["objects made", "objects linked"])
def test_consolidate_killed_at_named_points(embedded: Campaign, finished_demo: Campaign, linked: bool) -> None:
    """`cube.zarr`, which shows an older version when the work begins, is whole after every kill.

    The objects of the older version are the same ones, and are linked; or all of them are damaged, and none is.
    """
    run, expected = embedded.run, cube_bytes(finished_demo.run.newest_cube, provenance=True)
    older, made = run.cube("older"), run.cube(finished_demo.run.newest_cube.resolve().stem)
    shutil.copytree(finished_demo.run.newest_cube.resolve(), older)
    objects = sorted(older.rglob("c.*"))
    for path in [] if linked else objects:
        flip_a_bit(path)
        path.chmod(0o444)
    before = cube_bytes(older, provenance=True)
    run.newest_cube.symlink_to(older.relative_to(run.root))
    points = {name: point for name, point in CONSOLIDATE_POINTS.items() if not linked or name not in MADE}
    if linked:
        code, said = run_and_die(embedded, "consolidate", LINKED)
        assert code == KILLED, said
        assert sum(path.stat().st_nlink == 2 for path in objects) == 2
    for name, point in points.items():
        code, said = run_and_die(embedded, "consolidate", point)
        assert code == KILLED, f"{name}: the point was not met\n{said}"
        assert run.newest_cube.resolve() == older
        assert made.exists() == ("symlink" in name)
        assert not made.exists() or cube_bytes(made, provenance=True) == expected, name
    embedded.cli("consolidate")
    assert run.newest_cube.resolve() == made
    assert cube_bytes(made, provenance=True) == expected
    assert all((made / path.relative_to(older)).samefile(path) is linked for path in objects)
    assert verify_cube(run.newest_cube, lambda done, total: None) == []
    assert cube_bytes(older, provenance=True) == before, "the version before was touched"


@pytest.mark.slow
def test_consolidate_killed_at_random_moments(embedded: Campaign, finished_demo: Campaign) -> None:
    """There is no cube, or a whole one."""
    run, expected = embedded.run, cube_bytes(finished_demo.run.newest_cube, provenance=True)
    draw, killed = random.Random(5), 0
    for _ in range(4):
        before = set(run.cubes.glob("*"))
        with running(embedded, "consolidate") as process:
            wait_for(process, lambda before=before: set(run.cubes.glob("*")) - before)  # type: ignore[misc]
            with suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0, 0.5))
        killed += process.returncode == KILLED
        if os.path.lexists(run.newest_cube):
            assert cube_bytes(run.newest_cube, provenance=True) == expected
            run.newest_cube.unlink()
            shutil.rmtree(run.cubes)
    assert killed >= 2
    embedded.cli("consolidate")
    assert cube_bytes(run.newest_cube, provenance=True) == expected
    assert verify_cube(run.newest_cube, lambda done, total: None) == []


# --- what is left on disk -------------------------------------------------------------------------


def some_part(campaign: Campaign) -> Path:
    """One of the last round, whose records the cube needs."""
    return max(path.parent for path in campaign.run.parts.glob(f"*/*/*/{RECORDS}"))


@pytest.mark.parametrize("kept", [1, 700, -2, -1], ids=["one byte", "half", "no brace", "no newline"])
def test_a_torn_last_line_is_no_record(kept: int, embedded: Campaign) -> None:
    """However much of it is there."""
    records = some_part(embedded) / RECORDS
    *whole, last = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(whole) + last[:kept])
    lost = json.loads(last)["recipe"]
    assert recorded_recipes(embedded.run) == planned_recipes(embedded) - {lost}
    with pytest.raises(WorkError, match="1 of 30 shards have no record"):
        consolidate(load_campaign(embedded.file), embedded.run, lambda done, total: None)


def test_a_line_of_zeros_is_no_record(embedded: Campaign) -> None:
    """As a power cut leaves the end of a file that grew."""
    path = next(embedded.run.parts.glob(f"*/*/*/{RECORDS}"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + bytes(100) + b"\n")
    lost = json.loads(lines[-1])["recipe"]
    assert recorded_recipes(embedded.run) == planned_recipes(embedded) - {lost}


def test_a_record_whose_bytes_are_damaged_stops_consolidate(embedded: Campaign) -> None:
    """One bit of one array; the message names the pack and the array, and no cube comes of it."""
    part = some_part(embedded)
    stored = next(one for line in complete_lines(part) for one in stored_in(line) if one["array"] == "scale")
    flip_a_bit(part / stored["path"], stored["offset"] + stored["size"] // 2)
    done = call_cli("consolidate", embedded.file)
    assert done.returncode == 1
    assert f"{part / PACK}: scale, {stored['size']} bytes with SHA-256 " in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.lexists(embedded.run.newest_cube)


def test_a_pack_that_is_cut_off_stops_consolidate(embedded: Campaign) -> None:
    """Its records speak of bytes behind its end."""
    part = some_part(embedded)
    os.truncate(part / PACK, (part / PACK).stat().st_size // 2)
    done = call_cli("consolidate", embedded.file)
    assert done.returncode == 1
    assert f"{part / PACK}: " in done.stderr
    assert "the disk has changed it" in done.stderr
    assert not os.path.lexists(embedded.run.newest_cube)


def flip_a_bit(path: Path, at: int | None = None) -> None:
    """In the byte `at`, or in the middle."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(body)


def test_two_results_of_one_recipe_must_be_equal(embedded: Campaign, finished_demo: Campaign) -> None:
    """An equal second attempt is welcome; one whose bytes differ is an error that names both hosts."""
    part = some_part(embedded)
    again = part.parents[1] / "20990101T000000-again" / part.name
    shutil.copytree(part, again)
    found = [document for line in complete_lines(again) if (document := from_line(line)) is not None]
    records = [document | {"attempt": again.parent.name, "host": "node42"} for document in found]
    write_records(again, records)
    embedded.cli("consolidate")
    assert_same_cube(embedded, finished_demo)

    stored = records[0]["arrays"][0]
    start, end = stored["offset"], stored["offset"] + stored["size"]
    flip_a_bit(again / PACK, start)
    stored["sha256"] = sha256((again / PACK).read_bytes()[start:end]).hexdigest()
    write_records(again, records)
    first: Record = next(record for folder, record in scan_records(embedded.run) if folder == part)
    done = call_cli("consolidate", embedded.file)
    assert done.returncode == 1
    assert re.search(rf"\b{re.escape(first.host)}\b.*\bnode42\b", done.stderr)
    assert "Traceback" not in done.stderr


def write_records(part: Path, documents: list[dict[str, Any]]) -> None:
    (part / RECORDS).write_bytes(b"".join(to_line(document) for document in documents))


# --- a disk that fails ----------------------------------------------------------------------------


class Disk:
    """A folder, and what of it is flushed: all that a power cut is sure to leave."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._fsync = folder, os.fsync
        self._sizes: dict[Path, int] = {}
        self._names: set[Path] = set()

    def fsync(self, descriptor: int) -> None:
        """Flush a file or the names in a folder; at this moment a power cut leaves no record of what is not there."""
        self.assert_records_hold(sudden=True)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._fsync(descriptor)
        if path.is_dir():
            self._names.update(path.iterdir())
            # a file of another run was flushed there, and has now a name here
            self._sizes |= {one: one.stat().st_size for one in path.iterdir() if one.stat().st_nlink > 1}
        else:
            self._sizes[path] = path.stat().st_size

    def assert_records_hold(self, *, sudden: bool = False) -> set[str]:
        """Cut the power; returns the recipes that have a record. A `sudden` cut comes when records just got there."""
        with tempfile.TemporaryDirectory() as folder:
            for path in (path for path in self._folder.rglob("*") if path.is_file()):
                known = {path, *path.parents} - {self._folder, *self._folder.parents} <= self._names
                size = None if sudden and path.name == RECORDS else known * self._sizes.get(path, 0)
                copy = folder / path.relative_to(self._folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes()[:size])
            left = RunDir(Path(folder))
            assert_records_hold(left)
            return recorded_recipes(left)


def demo_shards(campaign: Campaign) -> Iterator[tuple[Record, dict[str, bytes | None], bytes]]:
    """Records, with their arrays and what their scenes contributed."""
    for part, record in scan_records(campaign.run):
        arrays = {one.array: read_stored(part, one) or None for one in record.arrays}
        yield record, arrays, read_stored(part, record.fed)


def test_a_power_cut_leaves_no_record_of_a_shard_that_is_lost(
    finished_demo: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment; and what a call has written is there after it."""
    disk = Disk(tmp_path)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    recipes: set[str] = set()
    with closing(PartWriter(RunDir(tmp_path).part(0, "attempt", 0))) as writer:
        for record, arrays, contributed in islice(demo_shards(finished_demo), 3):
            stored, fed = writer.write_shard(arrays, contributed)
            assert disk.assert_records_hold() == recipes
            writer.write_records([replace(record, arrays=stored, fed=fed)])
            recipes.add(record.recipe)
            assert disk.assert_records_hold() == recipes


@pytest.mark.parametrize("has_parts", [True, False], ids=["of parts", "of a cube"])
def test_a_power_cut_leaves_no_record_of_a_shard_that_was_to_be_adopted(
    finished: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_parts: bool
) -> None:
    run, wanted = RunDir(tmp_path / "adopting"), {record.recipe for record in planned_records(finished)}
    run.root.mkdir()
    disk, adopted = Disk(run.root), Adopted()
    base = Base(path=finished.run.root, run=finished.run, cube=finished.run.newest_cube.resolve(), has_parts=has_parts)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    adopt_all(run, base, wanted, adopted)
    assert (adopted.shards, adopted.copied) == (30, 0)
    assert disk.assert_records_hold() == wanted


@contextmanager
def full(part: Path, _: pytest.MonkeyPatch) -> Iterator[None]:
    """No file gets larger than the pack is, but for a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((part / PACK).stat().st_size + 100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def failing_fsync(_: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was written may not be there; a second fsync would say that it is."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with patch.context() as context:
        context.setattr(os, "fsync", fail)
        yield


@pytest.mark.parametrize("fault", [full, failing_fsync])
def test_after_an_error_of_the_disk_nothing_is_written_to_a_pack(
    finished_demo: Campaign,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[None]],
) -> None:
    """Nobody knows what stands behind its last whole shard; all before that is as it was."""
    run = RunDir(tmp_path)
    part = run.part(0, "attempt", 0)
    one, two, three = islice(demo_shards(finished_demo), 3)
    with closing(PartWriter(part)) as writer:
        stored, fed = writer.write_shard(*one[1:])
        writer.write_records([replace(one[0], arrays=stored, fed=fed)])
        whole = (part / PACK).read_bytes()
        with fault(part, monkeypatch), pytest.raises(OSError, match=f"{part / PACK}"):
            writer.write_shard(*two[1:])
        torn = {path.name: path.read_bytes() for path in part.iterdir()}
        with pytest.raises(OSError, match=f"nothing is written after .*{part / PACK}"):
            writer.write_shard(*three[1:])
        with pytest.raises(OSError, match="nothing is written after "):
            writer.write_records([replace(three[0], arrays=stored, fed=fed)])
    assert torn[PACK].startswith(whole)
    assert len(torn[PACK]) > len(whole)
    assert {path.name: path.read_bytes() for path in part.iterdir()} == torn
    assert recorded_recipes(run) == {one[0].recipe}
    assert_records_hold(run)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "first"), [("write", 8), ("fsync", 12)])
def test_a_rank_whose_pack_has_had_an_error_writes_no_more(
    planned: Campaign, finished_demo: Campaign, tmp_path: Path, call: str, first: int
) -> None:
    """One call fails, and every later one would be answered well: the rank ends, and the next start does the rest."""
    planned.change(lambda document: document["how"].update(ranks=1))
    log = tmp_path / "failed"
    run, environment = planned.run, errors.failing("EIO", Path("/" + PACK), first=first, count=1, log=log)
    done = run_cli("embed", planned.file, environment=environment)
    [attempt] = attempts(run)
    part = run.part(0, attempt, 0)
    assert done.returncode == 1
    assert f"shards are undone; a rank failed: rank 0 on node {socket.gethostname()}: [Errno 5] " in done.stderr
    assert f"Input/output error: '{part / PACK}'" in done.stderr
    assert log.read_text() == f"{call} {part / PACK}\n"
    shards = shards_of(finished_demo.run)
    assert has_torn_shard(part, shards) if call == "write" else has_unrecorded_shard(part, shards)
    assert_records_hold(run)
    planned.cli("embed")
    assert_nothing_done_twice(planned)
    planned.cli("consolidate")
    assert_same_cube(planned, finished_demo)
