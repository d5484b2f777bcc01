"""profile: how long each rank spent in each step, and which step limits the speed. Reads records only."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.recorded import best_documents
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.timings import DEVICE, READING, WITHIN_READ, WRITING

_BUSY = 0.9
"""A device that works for this share of the time is the bottleneck."""

_IN_TURN = {"wait": READING, "held": WRITING}
"""Waiting steps of the device, and the steps that it waits for when nothing overlaps."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """How one rank spent its time in one attempt, or the sum over several."""

    name: str
    """`<attempt>/<rank> <host>`, or "all" """
    shards: int
    """number of shards with a record"""
    wall_s: float
    """seconds from the start of the first shard to the end of the last"""
    seconds: dict[str, float]
    """by step; the steps of the device's thread add up to `wall_s`, but for the writing of the last shard"""
    read_bytes: int
    written_bytes: int

    @property
    def bottleneck(self) -> str:
        """The step that all others wait for, and what would help, in one line."""
        share = {step: self.seconds.get(step, 0.0) / self.wall_s if self.wall_s else 0.0 for step in DEVICE}
        works = share["copy"] + share["forward"] + share["quantise"]
        if works >= _BUSY or (works and not share["wait"] + share["held"]):
            return f"the device: it works {works:.0%} of the time, {share['forward']:.0%} in forward passes"
        steps = {name: sum(self.seconds.get(step, 0.0) for step in made) for name, made in _IN_TURN.items()}
        if all(0 < _BUSY * seconds <= self.seconds.get(name, 0.0) for name, seconds in steps.items()):
            return (
                f"the core, which does one step after the other: forward passes take {share['forward']:.0%} of the "
                f"time, reading {share['wait']:.0%}, writing {share['held']:.0%}"
            )
        if share["wait"] >= share["held"]:
            within = ", ".join(f"{step} {self.seconds.get(step, 0.0):.1f} s" for step in WITHIN_READ)
            return (
                f"reading: the device waits for it {share['wait']:.0%} of the time ({within}, added over all threads); "
                "larger shards, more how.threads or a faster disk help"
            )
        return f"writing: the device waits for it {share['held']:.0%} of the time; a faster disk helps"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The time of each rank whose records the plan uses, and of all together."""

    ranks: tuple[Spent, ...]
    all: Spent


def profile(campaign: Campaign, run: RunDir) -> Profile:
    """The profile of the plan's shards that have a record.

    Raises:
        RequestError: there is no plan.
    """
    plan = read_plan(campaign, run)
    names = ("attempt", "rank", "host", "started", "finished", "seconds", "read_bytes", "arrays")
    of_rank: dict[tuple[str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for record in best_documents(run, set(read_recipes(run, plan)), names).values():
        of_rank[record["attempt"], record["rank"], record["host"]].append(record)
    ranks = tuple(
        _spent(f"{attempt}/{rank} {host}", of_rank[attempt, rank, host]) for attempt, rank, host in sorted(of_rank)
    )
    return Profile(
        ranks=ranks,
        all=Spent(
            name="all",
            shards=sum(one.shards for one in ranks),
            wall_s=sum(one.wall_s for one in ranks),
            seconds=_added(one.seconds for one in ranks),
            read_bytes=sum(one.read_bytes for one in ranks),
            written_bytes=sum(one.written_bytes for one in ranks),
        ),
    )


def table(made: Profile) -> list[str]:
    """The profile as a table: one line for each rank with its shards, its wall time and the share of each step."""
    steps = (*DEVICE, READING[0], *WITHIN_READ, *READING[1:], *WRITING)
    width = max(len(one.name) for one in (*made.ranks, made.all))
    lines = [f"{'':<{width}} shards   wall s " + "".join(f"{step:>10}" for step in steps)]
    for one in (*made.ranks, made.all):
        shares = (one.seconds.get(step, 0.0) / one.wall_s if one.wall_s else 0.0 for step in steps)
        lines.append(f"{one.name:<{width}} {one.shards:6d} {one.wall_s:8.1f} " + "".join(f"{s:>10.1%}" for s in shares))
    both = f"{made.all.read_bytes / 1e9:.2f} GB read, {made.all.written_bytes / 1e9:.2f} GB written"
    return [*lines, f"{both}; the bottleneck is {made.all.bottleneck}"]


def _spent(name: str, records: list[dict[str, Any]]) -> Spent:
    first = min(datetime.fromisoformat(record["started"]) for record in records)
    last = max(datetime.fromisoformat(record["finished"]) for record in records)
    return Spent(
        name=name,
        shards=len(records),
        wall_s=(last - first).total_seconds(),
        seconds=_added(record["seconds"] for record in records),
        read_bytes=sum(record["read_bytes"] for record in records),
        written_bytes=sum(stored["size"] for record in records for stored in record["arrays"]),
    )


def _added(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        for step, seconds in part.items():
            total[step] += seconds
    return {step: round(seconds, 3) for step, seconds in total.items()}
