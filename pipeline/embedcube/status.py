"""status: what is done, how fast, and how long the rest will take. Reads records only."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from embedcube.config import Campaign
from embedcube.parts import best_documents
from embedcube.plan import read_plan, read_recipes
from embedcube.rundir import RunDir


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a campaign is."""

    shards: int
    done: int
    cells: dict[str, int]
    """per status, of the shards that are done"""
    quarantined: dict[str, str]
    """scenes that could not be read, and why"""
    shards_per_s: float | None
    """over the newest attempts; None before two shards are done"""
    seconds_left: float | None
    cube: str | None
    """the newest version"""


def status(campaign: Campaign, run: RunDir) -> Status:
    """Count the records of the plan's shards."""
    read_plan(campaign, run)
    wanted = set(read_recipes(run))
    seen = best_documents(run, wanted, ("counts", "attempt", "finished"))
    cells: Counter[str] = Counter()
    quarantined: dict[str, str] = {}
    for record in seen.values():
        cells.update({name: count for name, count in record["counts"].items() if name != "chips"})
        quarantined.update({q["scene"]: q["reason"] for q in record["quarantined"]})
    rate = _rate(list(seen.values()))
    left = len(wanted) - len(seen)
    return Status(
        shards=len(wanted),
        done=len(seen),
        cells=dict(cells),
        quarantined=quarantined,
        shards_per_s=rate,
        seconds_left=left / rate if rate and left else (0.0 if not left else None),
        cube=run.newest_cube.resolve().name if run.newest_cube.exists() else None,
    )


def _rate(records: list[dict[str, Any]]) -> float | None:
    newest = max((record["attempt"] for record in records), default="")
    ends = sorted(datetime.fromisoformat(r["finished"]) for r in records if r["attempt"] == newest)
    if len(ends) < 2 or ends[0] == ends[-1]:
        return None
    return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()
