"""How jobs ended, in words, and what to do next."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedcube.campaign.run_folder import RunDir
from embedcube.jobs.queue import Element, Ended

_WORDS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "ended by Slurm as the time was up",
    "DEADLINE": "ended by Slurm as the deadline was over",
    "NODE_FAIL": "lost as a node failed",
    "BOOT_FAIL": "lost as a node did not start",
    "PREEMPTED": "ended by Slurm for another job (preempted)",
}

_MEMORY = {
    "embed": "lower how.ranks or how.cache_mb, or write more mem_gb_per_node in the site's file",
    "consolidate": "write more memory in the site's file (cpu_nodes.mem_gb_per_node, or mem_gb_per_node)",
}

_TIME = {
    "embed": "write more minutes in how.time_min",
    "consolidate": "write more minutes (cpu_nodes.time_min in the site's file, or how.time_min)",
}

_IN_LOG = (
    (re.compile(r"oom.kill|out.of.memory|exceeded .*memory", re.IGNORECASE), "OUT_OF_MEMORY"),
    (re.compile(r"DUE TO TIME LIMIT"), "TIMEOUT"),
    (re.compile(r"DUE TO NODE FAILURE"), "NODE_FAIL"),
    (re.compile(r"DUE TO PREEMPTION"), "PREEMPTED"),
)
"""Lines that Slurm writes into the output of a job that it ends."""

KILLED = "was killed by signal"
"""Words of a batch script whose command was killed; Slurm's own line, where there is one, says why."""

VAIN = "the time of the job ends before anything is done"
"""Words of a batch script whose job has two starts behind it that made nothing, and each lasted until the end."""

_OWN = "embedcube: "
"""Begins the line in which a command, or a batch script, says why it failed."""

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How some elements of a job failed."""

    stage: str
    state: str
    """in Slurm's word; UNKNOWN where there are no accounts"""
    jobs: tuple[str, ...]
    """ids of the elements"""
    said: str
    """the last line in which the log of the first says why; empty where there is none"""
    move: str
    """what to change before the next `submit`; empty where nothing need be"""

    def __str__(self) -> str:
        what = f"{self.stage} {_some(self.jobs)}: {in_words(self.state)}"
        return what + (f": {self.said}" if self.said else "") + (f"; {self.move}" if self.move else "")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the next move follows from."""

    planned: bool
    left: int
    """shards without a record"""
    made: bool
    """whether the newest cube is that of the plan"""
    findings: int | None
    """of `verify`, for the newest cube"""
    answer: str
    """whether Slurm answered: as `Queue.answer`"""
    said: str
    at_work: str
    waiting: Sequence[Element]
    submitted: bool
    failures: Sequence[Failure]


def in_words(state: str) -> str:
    """A state of Slurm in words."""
    return _WORDS.get(state, state.lower().replace("_", " "))


def failures(stage: str, job: str, ended: Sequence[Ended], run: RunDir, *, known: bool) -> tuple[Failure, ...]:
    """The ways in which elements of a job failed. `known` is false where neither squeue nor sacct knows the job."""
    by_way: dict[str, list[str]] = {}
    said: dict[str, str] = {}
    for one in ended or ([] if known else [Ended(id=job, state="UNKNOWN")]):
        if one.state == "COMPLETED":
            continue
        words, state = _last_words(run.job_logs, one.id)
        # a step that needed too much memory may leave the job cancelled or failed
        state = state if state and one.state in ("FAILED", "CANCELLED", "UNKNOWN") else one.state
        if state == "CANCELLED" or (state == "UNKNOWN" and not words):
            continue
        if state in _WORDS and KILLED in words:
            words = ""  # Slurm says why
        by_way.setdefault(state, []).append(one.id)
        said.setdefault(state, words)
    return tuple(
        Failure(stage=stage, state=state, jobs=tuple(ids), said=said[state], move=_move(stage, state, said[state]))
        for state, ids in by_way.items()
    )


def next_move(facts: Facts, run: RunDir, campaign_file: str) -> str:
    """What to do next, in one sentence."""
    if facts.made and facts.findings == 0:
        return f"nothing is left to do; the cube {run.newest_cube} is verified"
    if facts.answer == "silent":
        return f"look again when Slurm answers ({facts.said})"
    stuck = [element for element in facts.waiting if element.stuck]
    if stuck and not facts.at_work:
        reason = stuck[0].reason or stuck[0].state
        return (
            f"job {stuck[0].id} does not start by itself ({reason}): change or release it (scontrol update, scontrol "
            f"release), or `embedcube cancel {campaign_file}`, and submit again"
        )
    if facts.at_work:
        return f"wait ({facts.at_work}); `embedcube status {campaign_file} --watch` ends when the cube is verified"
    if facts.answer == "absent" and facts.submitted:
        return f"look on a machine of the cluster whether its jobs are still queued ({facts.said})"
    return _what_is_left(facts, run, campaign_file)


def _what_is_left(facts: Facts, run: RunDir, campaign_file: str) -> str:
    again = f"`embedcube {'submit' if facts.submitted else 'run'} {campaign_file}`"
    if not facts.planned:
        return _after(facts, "prepare", f"{again}: no plan was made", run)
    if facts.left:
        return _after(
            facts, "embed", f"{again} embeds the {facts.left} shards that have no record, and only those", run
        )
    if not facts.made:
        return _after(facts, "consolidate", f"{again} makes the cube: every shard has a record", run)
    if facts.findings is None:
        return _after(facts, "verify", f"{again} verifies the cube", run)
    return f"read the {facts.findings} findings in {run.report / 'verify.json'}"


def _after(facts: Facts, stage: str, move: str, run: RunDir) -> str:
    """A move, after what must be changed because of the failure of a stage."""
    failed = [failure for failure in facts.failures if failure.stage == stage]
    if not failed:
        return move
    first = failed[-1].move or f"read the log of {stage} ({run.job_logs}/{failed[-1].jobs[0]}_*_log.out)"
    return f"{first}; then {move}"


def _move(stage: str, state: str, said: str) -> str:
    more = _MEMORY.get(stage, f"write more in {stage}.mem_gb of the site's file")
    if state == "OUT_OF_MEMORY":
        return more
    if KILLED in said:
        return f"if it was out of memory, {more}"
    if VAIN in said:
        return _TIME.get(stage, f"write more minutes in {stage}.time_min of the site's file")
    if state == "TIMEOUT":
        return _TIME.get(stage, f"write more minutes in {stage}.time_min of the site's file")
    return ""


def _last_words(logs: Path, job: str) -> tuple[str, str]:
    """The last line of a job's log that says why it failed, and the state that Slurm wrote there; empty without one."""
    words = state = ""
    for path in sorted(logs.glob(f"{job}_*_log.out")):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            if line.startswith(_OWN):
                words = line.removeprefix(_OWN)
            for pattern, named in _IN_LOG:
                if not line.startswith(_OWN) and pattern.search(line):
                    state = named
    return words, state


def _some(jobs: tuple[str, ...]) -> str:
    named = ", ".join(jobs[:3])
    return f"job{'s' if len(jobs) > 1 else ''} {named}" + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
