"""One seed: a campaign is disturbed, and started again until it ends; then its cube is compared."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from tests.chaos.faults import Fault
from tests.chaos.processes import Disturbed, end
from tests.chaos.small_campaign import Reference, Stage, Trial, trial_at
from tests.conftest import cube_bytes

from embedcube.errors import StartAgain

Outcome = Literal["right", "said", "stuck", "wrong", "unnoticed", "mute", "late", "endless"]
"""What came of a fault:

right       the cube is there, with the bytes of the undisturbed one
said        there is no cube, or `verify` finds something, and the message says what
stuck       the same, though the fault left no wrong file: it should have been right
wrong       exit code 0 and another cube
unnoticed   exit code 0, a damaged file of the cube, and no finding
mute        an end without a reason in words: a traceback, or what the program itself calls a bug
late        a process was alive a minute after it should have ended
endless     still "start again" after so many starts
"""

FORBIDDEN: tuple[Outcome, ...] = ("stuck", "wrong", "unnoticed", "mute", "late", "endless")

STARTS = 5
"""starts of `run` after the fault, at most"""

_TRANSIENT = (
    "signal", "pause", "error", "clock", "two runs", "two submits", "between objects", "appending", "half a write",
    "read-only",
)  # fmt: skip
"""Kinds of faults that leave no file wrong: after them the cube has to be right."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of the results."""

    seed: int
    stage: Stage
    kind: str
    fault: str
    """in words"""
    outcome: Outcome
    words: str
    """what the last start said, where it did not end with 0; else how many starts there were"""

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.stage}: {self.fault}: {self.words}"


def tried(seed: int, reference: Reference, folder: Path) -> Result:
    """The result of a seed, in a new folder that is removed unless its outcome is one that must not be."""
    fault = Fault.of(seed)
    trial = trial_at(reference, fault.stage, folder / f"{seed:04d}")
    disturbed = fault.happen(trial, reference)
    outcome, words = _judged(trial, reference, fault, disturbed)
    if outcome not in FORBIDDEN:
        shutil.rmtree(trial.folder)
    words = words.replace(f"{trial.folder}/", "")
    return Result(
        seed=seed, stage=fault.stage, kind=fault.kind, fault=disturbed.words, outcome=outcome, words=words[:300]
    )


def _judged(trial: Trial, reference: Reference, fault: Fault, disturbed: Disturbed) -> tuple[Outcome, str]:
    if disturbed.late:
        return "late", disturbed.said[-1].strip()[-300:]
    for code, said in zip(disturbed.codes, disturbed.said, strict=True):
        if code >= 0 and (wrong := speechless(code, said)):
            return "mute", wrong
    if fault.kind == "two submits" and disturbed.codes.count(0) != 1:
        return "wrong", f"exit codes {disturbed.codes}: {disturbed.said[-1].strip()[-200:]}"
    begun, code, said = 0, StartAgain.exit_code, ""
    while code == StartAgain.exit_code and begun < STARTS:
        begun += 1
        again = Disturbed(words="")
        end(trial.start("run"), again, reference.limit_s(*get_args(Stage)))
        (code,), (said,) = again.codes, again.said
        if again.late:
            return "late", f"start {begun} of `run`: {said.strip()[-300:]}"
    if wrong := speechless(code, said):
        return "mute", wrong
    if code == StartAgain.exit_code:
        return "endless", _last_line(said)
    if code:
        return ("stuck" if fault.kind in _TRANSIENT else "said"), _last_line(said)
    return compared(trial, reference, disturbed, begun)


def compared(trial: Trial, reference: Reference, disturbed: Disturbed, begun: int) -> tuple[Outcome, str]:
    """The outcome where the last of `begun` starts ended with 0."""
    if cube_bytes(trial.run.newest_cube) != reference.cube:
        return "wrong", f"another cube after {begun} starts"
    if torn := _tracebacks(trial):
        return "mute", torn
    cube = trial.run.newest_cube.resolve()
    # where a damaged file of the cube has the bytes of the undisturbed one, it lies in provenance
    if disturbed.damaged is not None and cube / "provenance" in disturbed.damaged.parents:
        return "unnoticed", "provenance of the cube"
    return "right", f"{begun} start{'s' if begun > 1 else ''} of `run`"


def speechless(code: int, said: str) -> str:
    """Why an end is no answer; empty if it is one."""
    if "Traceback (most recent call last)" in said or "this is a bug" in said:
        return _last_line(said)
    if code and "embedcube: " not in said:
        return f"exit code {code} and no reason: {_last_line(said)}"
    return ""


def _tracebacks(trial: Trial) -> str:
    """The first traceback in a log of a rank; empty if there is none."""
    for log in sorted(trial.run.logs.glob("*.log")):
        text = log.read_text(errors="replace")
        if "Traceback (most recent call last)" in text:
            return f"a traceback in a rank's log: {text.strip().splitlines()[-1]}"
    return ""


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("embedcube: ")]
    return (told or lines or [""])[-1]


def to_line(result: Result) -> str:
    """A line of JSON, with a newline."""
    return json.dumps(asdict(result)) + "\n"


def from_line(line: str) -> Result:
    """The inverse of `to_line`."""
    return Result(**json.loads(line))
