"""Some seeds of `make chaos`, on the demo; and that its judgement can fail."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chaos.faults import KINDS, Fault
from tests.chaos.processes import Disturbed
from tests.chaos.small_campaign import Reference, trial_at
from tests.chaos.trial import FORBIDDEN, compared, speechless, tried
from tests.conftest import Campaign, cube_bytes

pytestmark = pytest.mark.chaos

SEEDS = {14: "pack", 16: "signal", 28: "error"}
"""All at consolidation, from where on little is left to be done again."""

LEFT_OUT = {"embed": ("parts", "cubes", "cube.zarr"), "consolidate": ("cubes", "cube.zarr"), "verify": ()}
"""For each stage, what its run folder does not have yet."""


@pytest.fixture(scope="module")
def reference(finished_demo: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The demo; its early stages are not disturbed here."""
    stations = tmp_path_factory.mktemp("stations")
    for stage, names in LEFT_OUT.items():
        ignore = shutil.ignore_patterns(*names, "report", "logs")
        shutil.copytree(finished_demo.run.root, stations / stage, symlinks=True, ignore=ignore)
    document: dict[str, Any] = yaml.safe_load(finished_demo.file.read_text())
    document["archives"]["s2"]["path"] = str(finished_demo.file.parent / document["archives"]["s2"]["path"])
    return Reference(
        document=document,
        stations=stations,
        seconds={"index": 3, "fit": 3, "plan": 4, "embed": 8, "consolidate": 4, "verify": 5},
        cube=cube_bytes(finished_demo.run.newest_cube),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_fault_the_cube_is_right_or_the_run_says_why_not(
    seed: int, reference: Reference, tmp_path: Path
) -> None:
    result = tried(seed, reference, tmp_path)
    assert (result.kind, result.stage) == (SEEDS[seed], "consolidate")
    assert result.outcome not in FORBIDDEN, result


def test_faults_are_drawn_at_every_stage_and_of_every_kind() -> None:
    faults = [Fault.of(seed) for seed in range(100)]
    assert len({fault.stage for fault in faults}) == 6
    assert {fault.kind for fault in faults} == {*KINDS}
    assert {fault.stage for fault in faults if fault.kind == "signal"} == {fault.stage for fault in faults}


def test_another_cube_is_seen(reference: Reference, tmp_path: Path) -> None:
    """And a traceback in the log of a rank, and damage of provenance that `verify` has not found."""
    trial, nothing = trial_at(reference, "verify", tmp_path / "trial"), Disturbed(words="")
    assert compared(trial, reference, nothing, 1) == ("right", "1 start of `run`")
    cube = trial.run.newest_cube.resolve()
    damaged = Disturbed(words="", damaged=cube / "provenance" / "zarr.json")
    assert compared(trial, reference, damaged, 1)[0] == "unnoticed"
    trial.run.logs.mkdir()
    (trial.run.logs / "embed.log").write_text("Traceback (most recent call last)\nKeyError: 1\n")
    assert compared(trial, reference, nothing, 1) == ("mute", "a traceback in a rank's log: KeyError: 1")
    (cube / "zarr.json").write_text("{}")
    assert compared(trial, reference, nothing, 1)[0] == "wrong"


@pytest.mark.parametrize(
    ("code", "said", "answers"),
    [
        (0, "index       2 scenes\n", True),
        (75, "embedcube: stopped by signal 15; start the same command again\n", True),
        (1, "", False),
        (1, "embedcube: KeyError: 1; this is a bug of embedcube or of a plugin\n", False),
        (0, "Traceback (most recent call last)\n", False),
    ],
)
def test_an_end_without_a_reason_is_no_answer(code: int, said: str, answers: bool) -> None:
    assert (speechless(code, said) == "") == answers
