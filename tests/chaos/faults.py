"""Faults, each drawn from a seed: to which stage of a campaign they happen, what, and when."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, get_args

import yaml
from tests.chaos.errors import ERRORS, failing, wrong_clock
from tests.chaos.layout import damaged_object, damaged_pack, killed_between_objects, killed_while_appending
from tests.chaos.older import older
from tests.chaos.processes import Disturbed, end, group_of
from tests.chaos.small_campaign import Reference, Stage, Trial

from embedcube.campaign.parts import PACK, RECORDS

Kind = Literal[
    "signal", "pause", "error", "clock", "damage", "older", "two runs", "two submits",
    "pack", "object", "between objects", "appending", "half a write", "read-only",
]  # fmt: skip

KINDS: tuple[Kind, ...] = (
    *("signal",) * 6, *("pause",) * 2, *("error",) * 5, "clock", *("damage",) * 5, *("older",) * 3,
    "two runs", "two submits", *("pack",) * 5, *("object",) * 2, "between objects", *("appending",) * 2,
    *("half a write",) * 2, "read-only",
)  # fmt: skip
"""In the shares in which seeds draw them; their number is a prime, so that seeds come by all of them."""

STAGES: dict[Kind, tuple[Stage, ...]] = {
    "two submits": ("embed",),
    "damage": ("fit", "plan", "embed", "consolidate", "verify"),  # before `index` there is nothing
    "older": ("embed", "consolidate", "verify"),  # there is no JSON before
    "pack": ("embed", "consolidate", "consolidate", "verify"),
    "object": ("verify",),
    "between objects": ("consolidate",),
    "appending": ("embed",),
    "half a write": ("embed",),
}
"""Of kinds that cannot happen at every stage."""

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
        kind = KINDS[seed * 7 % len(KINDS)]
        stages = STAGES.get(kind, get_args(Stage))
        return cls(seed=seed, stage=stages[(seed + seed // len(KINDS)) % len(stages)], kind=kind)

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
    end(process, disturbed, reference.limit_s(fault.stage))
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
    end(process, disturbed, reference.limit_s(fault.stage))
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
    words = f"{error} at change {first} of a file by each process, {_times(count)}"
    return _with_errors(fault, trial, reference, words, _Errors(error, trial.run.root, first, count))


def _read_only(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """The run folder is on a file system that is mounted to be read only."""
    words = "the run folder is read-only"
    return _with_errors(fault, trial, reference, words, _Errors("EROFS", trial.run.root, 0, -1))


def _half_a_write(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """The disk becomes full in the middle of what is appended to packs or records."""
    name, count = random.choice((PACK, RECORDS)), random.choice((1, 2, -1))
    error, first = random.choice(("ENOSPC", "EDQUOT")), random.randrange(80)
    words = f"{error} in the middle of an append to {name}, from change {first} on, {_times(count)}"
    return _with_errors(fault, trial, reference, words, _Errors(error, name, first, count, half=True))


class _Errors(NamedTuple):
    error: str
    below: Path | str
    first: int
    times: int
    half: bool = False


def _times(count: int) -> str:
    return {1: "once", -1: "from there on"}.get(count, f"{count} times")


def _with_errors(fault: Fault, trial: Trial, reference: Reference, words: str, errors: _Errors) -> Disturbed:
    trial.run.root.mkdir(parents=True, exist_ok=True)
    log, disturbed = trial.folder / "failed.txt", Disturbed(words=words)
    error, below, first, times, half = errors
    process = trial.start(fault.stage, failing(error, below, first=first, count=times, log=log, half=half))
    end(process, disturbed, reference.limit_s(fault.stage))
    if log.exists():
        call, _, path = log.read_text().splitlines()[0].partition(" ")
        disturbed.words += f" (the first: {call} {trial.name_of(Path(path))})"
    else:
        disturbed.words += " (met by none)"
    return disturbed


def _clock(fault: Fault, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """The clock of this start is a day early or late."""
    sign = random.choice((-1, 1))
    disturbed = Disturbed(words=f"the clock is a day {'late' if sign < 0 else 'early'}")
    process = trial.start(fault.stage, wrong_clock(sign * _DAY_S))
    end(process, disturbed, reference.limit_s(fault.stage))
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
    disturbed = Disturbed(words=f"{trial.name_of(path)} is {how} at byte {at} of {len(data)}", damaged=path)
    end(trial.start(fault.stage), disturbed, reference.limit_s(fault.stage))
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
        end(process, disturbed, reference.limit_s(fault.stage, fault.stage))
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
        end(process, disturbed, reference.limit_s())
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
    "two runs": _two_runs,
    "two submits": _two_submits,
    "read-only": _read_only,
    "half a write": _half_a_write,
    "older": lambda fault, *rest: older(fault.stage, *rest),
    "pack": lambda fault, *rest: damaged_pack(fault.stage, *rest),
    "object": lambda fault, *rest: damaged_object(fault.stage, *rest),
    "between objects": lambda fault, *rest: killed_between_objects(fault.stage, *rest),
    "appending": lambda fault, *rest: killed_while_appending(fault.stage, *rest),
}
