"""What a million records cost those who begin again: a task, a rank, `status`, `submit`, consolidation.

`benchmarks/scale.py` makes the plan and calls these, each in a process of its own.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import FED, FORMAT, PACK, RECORDS, Record, Stored
from embedcube.campaign.plan import Plan, read_plan, read_recipes, read_shards
from embedcube.campaign.record_tables import write_table
from embedcube.campaign.recorded import merge_recorded
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.seals import to_line
from embedcube.consolidate.consolidate import _objects, _settled
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.jobs.status import status
from embedcube.workers.crashes import CrashHistory
from embedcube.workers.left import read_left, write_left
from embedcube.workers.task import shards_to_do

ATTEMPTS, RANKS = 1000, 4
"""attempts of tasks, and ranks of each"""

STEPS = ("composite", "copy", "decode", "encode", "forward", "held", "quantise", "read", "wait", "warp", "write")


def write_records(campaign_file: Path, count: int, attempts: int) -> None:
    """Records of the first shards of the plan, as ranks write them, and no table."""
    _, run, plan = _opened(str(campaign_file))
    recipes = read_recipes(run, plan)[:count]
    size = -(-len(recipes) // (attempts * RANKS))
    for number, first in enumerate(range(0, len(recipes), size)):
        task, rank = divmod(number, RANKS)
        part = run.part(task, f"{1000 + task}-0", rank)
        part.mkdir(parents=True)
        fields = asdict(_record(part.parent.name, rank)) | {"format": FORMAT}
        with (part / RECORDS).open("wb") as file:
            for at, recipe in enumerate(recipes[first : first + size]):
                arrays = [one | {"sha256": recipe, "offset": 4096 * at} for one in fields["arrays"]]
                scenes = [f"{at // 10:064x}" for _ in range(9)]
                own = {"shard": f"layer/grid t0 y{at} x{number}", "recipe": recipe, "arrays": arrays, "scenes": scenes}
                file.write(to_line(fields | own))


def _record(attempt: str, rank: int) -> Record:
    stored = [
        Stored(array=name, path=PACK, offset=0, size=4096, sha256="0" * 64)
        for name in ("embedding", "scale", "status", "n_obs", FED)
    ]
    return Record(
        shard="", recipe="", arrays=tuple(stored[:-1]), fed=stored[-1], scenes=(), quarantined=(), refused="",
        contributions_size=64, started="2023-01-01T00:00:00.000+00:00", finished="2023-01-01T00:00:01.000+00:00",
        counts=dict.fromkeys((*STATUS_MEANINGS, "chips"), 64), seconds=dict.fromkeys(STEPS, 0.123456),
        read_bytes=10**8, energy_j=None, peak_bytes=10**9, host="node", device="cpu-avx512", attempt=attempt,
        rank=rank, code_version="0", job=attempt.partition("-")[0], container="",
    )  # fmt: skip


def _opened(campaign_file: str) -> tuple[Campaign, RunDir, Plan]:
    campaign = load_campaign(Path(campaign_file))
    run = RunDir(campaign.run_folder)
    return campaign, run, read_plan(campaign, run)


def attempt_tables(campaign_file: str) -> None:
    """What all parents write at their ends."""
    _, run, _ = _opened(campaign_file)
    for attempt in sorted(run.parts.glob("*/*")):
        write_table(run, int(attempt.parent.name), attempt.name, 0, range(RANKS))
    sizes = [path.stat().st_size for path in run.recorded_of_attempts()]
    print(f"{len(sizes)} tables, {sum(sizes) / 1e6:.0f} MB in all")


def merge(campaign_file: str) -> None:
    """What `submit` does."""
    _, run, plan = _opened(campaign_file)
    merge_recorded(run, plan)
    print(f"{run.recorded()[0].stat().st_size / 1e6:.0f} MB")


def restart_task(campaign_file: str) -> None:
    """All that is done before ranks start."""
    _, run, plan = _opened(campaign_file)
    total, todo, crashes = shards_to_do(run, plan, 0, whole=False)
    write_left(run.left(0, "again"), todo, CrashHistory.read(crashes, todo, retries=False))
    print(f"{total - len(todo)} of {total} shards of task 0 have a record")


def restart_rank(campaign_file: str) -> None:
    """What a rank reads before it draws, but for the weights."""
    campaign, run, plan = _opened(campaign_file)
    left, groups = read_left(run.left(0, "again")), read_shards(run, plan, 0)
    print(f"{len(scenes_as_planned(campaign, run, plan))} scenes, {len(groups)} groups, {len(left.recipes)} left")


def status_now(campaign_file: str) -> None:
    """`embedcube status`, without the start of Python."""
    campaign = load_campaign(Path(campaign_file))
    now = status(campaign, RunDir(campaign.run_folder))
    print(f"{now.done} of {now.shards} shards, {now.tasks_left} tasks left")


def consolidation(campaign_file: str) -> None:
    """What the client of `consolidate` does before its first task."""
    campaign, run, _ = _opened(campaign_file)
    plan, made = _settled(campaign, run)
    objects = [one for name, layer in plan.layers.items() for one in _objects(layer, name, made, run.cubes)]
    print(f"{len(made)} records, {len(objects)} objects")


RESTART: tuple[tuple[str, Callable[[str], None]], ...] = (
    ("task, from lines", restart_task),
    ("status, from lines", status_now),
    ("tables of attempts", attempt_tables),
    ("task, from tables of attempts", restart_task),
    ("status, from tables of attempts", status_now),
    ("merged by submit", merge),
    ("task, from the merged table", restart_task),
    ("rank", restart_rank),
    ("status, from the merged table", status_now),
    ("consolidate, to its first task", consolidation),
)
"""Each with the function that runs in a process of its own, one after the other."""
