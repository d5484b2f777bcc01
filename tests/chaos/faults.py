"""Faults, each drawn from a seed: to which stage of a campaign they happen, what, and when."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

import yaml
from tests.chaos.errors import ERRORS, failing, wrong_clock
from tests.chaos.processes import LATE_S, Disturbed, end, group_of
from tests.chaos.small_campaign import Reference, Stage, Trial

Kind = Literal["signal", "pause", "error", "clock", "damage", "older", "two runs", "two submits"]

KINDS: tuple[Kind, ...] = (
    *("signal",) * 7, *("pause",) * 2, *("error",) * 5, "clock", *("damage",) * 5, *("older",) * 2,
    "two runs", "two submits",
)  # fmt: skip
"""In the shares in which seeds draw them."""

_PAUSE_S = (1.0, 4.0)
_DAY_S = 86_400
_MOST_CALLS = (6, 30, 300)
"""changes of files that a process makes in a stage, at most: few in `index`, many in `consolidate`"""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A seed's fault."""

    seed: int
    stage: Stage
    kind: Kind

    @classmethod
    def of(cls, seed: int) -> "Fault":
        """The fault of a seed: kinds and stages take turns, so that few seeds have many of both."""
        stages = get_args(Stage)
        kind, stage = KINDS[seed * 7 % len(KINDS)], stages[seed // len(KINDS) * 5 % len(stages)]
        stage = stages[(stages.index(stage) + seed) % len(stages)]
        if kind == "two submits":
            stage = "embed"
        elif kind == "damage" and stage == "index":
            stage = "verify"  # there is nothing yet
        elif kind == "older" and stage in ("index", "fit", "plan"):
            stage = "consolidate"  # there is no JSON yet
        return cls(seed=seed, stage=stage, kind=kind)

    def happen(self, trial: Trial, reference: Reference) -> Disturbed:
        """Run the stage with the fault; returns when all its processes have ended."""
        return _HAPPEN[self.kind](self, trial, reference, Random(f"chaos {self.seed}"))


# --- signals --------------------------------------------------------------------------------------------------------


def _signal(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """End the parent, a rank, or all processes, at any moment of the stage."""
    whom = random.choice(("parent", "group", "rank") if fault.stage == "embed" else ("parent", "group"))
    number = random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    moment_s = random.uniform(0, 1.1 * reference.seconds[fault.stage])
    disturbed = Disturbed(words=f"{number.name} to the {whom} after {moment_s:.1f} s")
    process = trial.start(fault.stage)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment_s)
    for one in _meant(process.pid, whom, random):
        with suppress(ProcessLookupError):
            os.kill(one, number)
    end(process, disturbed, LATE_S + 4 * reference.seconds[fault.stage])
    return disturbed


def _pause(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """Stop a process for some seconds, as a machine that swaps does."""
    whom = random.choice(("parent", "group", "rank") if fault.stage == "embed" else ("parent", "group"))
    moment_s, pause_s = random.uniform(0, reference.seconds[fault.stage]), random.uniform(*_PAUSE_S)
    disturbed = Disturbed(words=f"SIGSTOP to the {whom} after {moment_s:.1f} s, for {pause_s:.1f} s")
    process = trial.start(fault.stage)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment_s)
    meant = _meant(process.pid, whom, random)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for one in meant:
            with suppress(ProcessLookupError):
                os.kill(one, number)
        time.sleep(pause_s if number == signal.SIGSTOP else 0)
    end(process, disturbed, LATE_S + 4 * reference.seconds[fault.stage])
    return disturbed


def _meant(parent: int, whom: str, random: Random) -> list[int]:
    """Process ids; the parent's where there is no rank yet."""
    if whom == "parent":
        return [parent]
    group = group_of(parent)
    if whom == "group":
        return group
    ranks = [one for one in group if one != parent]
    return [random.choice(ranks)] if ranks else [parent]


# --- what the system says -------------------------------------------------------------------------------------------


def _error(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """Some changes of files of the run folder fail, once, a few times, or from a moment on."""
    error, count = random.choice(list(ERRORS)), random.choice((1, 4, -1))
    first = random.randrange(random.choice(_MOST_CALLS))
    times = {1: "once", -1: "from there on"}.get(count, f"{count} times")
    disturbed = Disturbed(words=f"{error} at change {first} of a file by each process, {times}")
    trial.run.root.mkdir(parents=True, exist_ok=True)
    log = trial.folder / "failed.txt"
    process = trial.start(fault.stage, failing(error, trial.run.root, first=first, count=count, log=log))
    end(process, disturbed, LATE_S + 4 * reference.seconds[fault.stage])
    if log.exists():
        call, _, path = log.read_text().splitlines()[0].partition(" ")
        disturbed.words += f" (the first: {call} {_kept_name(Path(path), trial)})"
    else:
        disturbed.words += " (met by none)"
    return disturbed


def _kept_name(path: Path, trial: Trial) -> str:
    """A path of the run folder without what is drawn anew in each run."""
    inside = path.relative_to(trial.run.root) if path.is_relative_to(trial.run.root) else path
    return "/".join(part if len(part) < 24 else f"{part[:8]}..." for part in inside.parts)


def _clock(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """The clock of this start is a day early or late."""
    sign = random.choice((-1, 1))
    disturbed = Disturbed(words=f"the clock is a day {'late' if sign < 0 else 'early'}")
    process = trial.start(fault.stage, wrong_clock(sign * _DAY_S))
    end(process, disturbed, LATE_S + 4 * reference.seconds[fault.stage])
    return disturbed


# --- files of the run folder ----------------------------------------------------------------------------------------


def _damage(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """Before the stage, a file of the run folder is torn, flipped, zeroed or gone."""
    everything = [path for path in trial.run.root.rglob("*") if path.is_file() and not path.is_symlink()]
    found = sorted(path for path in everything if path.stat().st_size and trial.run.logs not in path.parents)
    # one folder as likely as another: a cube has a hundred files
    top = random.choice(sorted({path.relative_to(trial.run.root).parts[0] for path in found}))
    path = random.choice([path for path in found if path.relative_to(trial.run.root).parts[0] == top])
    data, how = bytearray(path.read_bytes()), random.choice(("flipped", "flipped", "torn", "zeroed", "gone"))
    path.unlink()  # versions share objects, and runs packs, as hard links: only one is damaged
    at = random.randrange(len(data))
    if how == "flipped":
        data[at] ^= 1 << random.randrange(8)
    elif how == "zeroed":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        del data[at:]
    if how != "gone":
        path.write_bytes(data)
    disturbed = Disturbed(words=f"{_kept_name(path, trial)} is {how} at byte {at} of {len(data)}", damaged=path)
    end(trial.start(fault.stage), disturbed, LATE_S + 4 * reference.seconds[fault.stage])
    return disturbed


def _older(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """A JSON file of the run folder lacks a key, or has one more, as another version writes it."""
    found = sorted(
        path for path in trial.run.root.rglob("*.json*")
        if trial.run.cubes not in path.parents and path.is_file() and path.stat().st_size
    )  # fmt: skip
    path = random.choice(found)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    documents = [json.loads(line) for line in lines]
    key, adds = random.choice(sorted(documents[0])), random.random() < 0.3
    for document in documents:
        if adds:
            document[f"{key}_of_tomorrow"] = document[key]
        else:
            document.pop(key, None)
    path.unlink()
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    what = f"has a key {key}_of_tomorrow" if adds else f"has no key {key}"
    disturbed = Disturbed(words=f"{_kept_name(path, trial)} {what}", damaged=path)
    end(trial.start(fault.stage), disturbed, LATE_S + 4 * reference.seconds[fault.stage])
    return disturbed


# --- two at once ----------------------------------------------------------------------------------------------------


def _two_runs(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """The same stage is started twice."""
    after_s = random.choice((0, random.uniform(0, reference.seconds[fault.stage])))
    disturbed = Disturbed(words=f"started again after {after_s:.1f} s, while the first start works")
    first = trial.start(fault.stage)
    time.sleep(after_s)
    second = trial.start(fault.stage)
    for process in (first, second):
        end(process, disturbed, LATE_S + 8 * reference.seconds[fault.stage])
    return disturbed


_SITE = {"site": "chaos", "cpus_per_node": 2, "mem_gb_per_node": 16, "max_time_min": 60}

_SBATCH = """#!/bin/bash
sleep 0.5
flock {folder}/lock bash -c 'echo x >> {folder}/jobs; echo Submitted batch job $(wc -l < {folder}/jobs)'
"""
"""Numbers jobs, and takes its time, as a busy controller does."""

_SQUEUE = """#!/bin/bash
if [ -e {folder}/jobs ]; then seq -f '%g %g PENDING' $(wc -l < {folder}/jobs); fi
"""


def _two_submits(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """`submit` is called twice at once; of the chain of three jobs there must be one."""
    (trial.folder / "site.yaml").write_text(yaml.safe_dump(_SITE))
    document = yaml.safe_load(trial.file.read_text())
    document["how"] |= {"site": str(trial.folder / "site.yaml")}
    trial.file.write_text(yaml.safe_dump(document, sort_keys=False))
    for name, script in (("sbatch", _SBATCH), ("squeue", _SQUEUE), ("sacct", "#!/bin/bash")):
        path = trial.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script.format(folder=trial.folder))
        path.chmod(0o755)
    environment = {"PATH": f"{trial.folder}/bin{os.pathsep}{os.environ['PATH']}"}
    after_s = random.choice((0, random.uniform(0, 1)))
    first = trial.start("submit", environment)
    time.sleep(after_s)
    second = trial.start("submit", environment)
    disturbed = Disturbed(words="")
    for process in (first, second):
        end(process, disturbed, LATE_S)
    jobs = len((trial.folder / "jobs").read_text().splitlines()) if (trial.folder / "jobs").exists() else 0
    disturbed.words = f"`submit` twice, {after_s:.1f} s apart: {jobs} jobs, exit codes {disturbed.codes}"
    document["how"].pop("site")
    trial.file.write_text(yaml.safe_dump(document, sort_keys=False))
    return disturbed


_HAPPEN: dict[Kind, Callable[[Fault, Trial, Reference, Random], Disturbed]] = {
    "signal": _signal,
    "pause": _pause,
    "error": _error,
    "clock": _clock,
    "damage": _damage,
    "older": _older,
    "two runs": _two_runs,
    "two submits": _two_submits,
}
