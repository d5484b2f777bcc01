"""Parents of one task: one alone, or several as srun starts one on each node; here all of them on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import Campaign

EMBEDCUBE = Path(sys.executable).parent / "embedcube"


def sleepy(campaign: Campaign, **how: Any) -> Campaign:
    """The campaign with the backbone `sleepy`, each batch of which takes SLEEPY_S."""

    def change(document: dict[str, Any]) -> None:
        document["layers"]["s2_mosaiks"] |= {"backbone": {"name": "sleepy"}, "chip_px": 160, "halo_px": 16}
        document["how"] |= {"threads": 1, **how}

    campaign.change(change)
    return campaign


@contextmanager
def two_parents(campaign: Campaign, *changes: dict[str, str]) -> Iterator[list["subprocess.Popen[str]"]]:
    """Both parents of the first task; each may have variables of its own. Nothing is left of them after the block."""
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NUM_NODES": "2"}
    with ExitStack() as stack:
        yield [
            stack.enter_context(_started(campaign, "--task", "0", **step, SLURM_PROCID=str(number), **change))
            for number, change in enumerate(changes)
        ]


@contextmanager
def embedding(campaign: Campaign, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """`embed`; nothing is left of it after the block."""
    with _started(campaign, **environment) as process:
        yield process


@contextmanager
def _started(campaign: Campaign, *options: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """`embed` in a process group of its own."""
    process = subprocess.Popen(
        (EMBEDCUBE, "embed", campaign.file, *options),
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(ValueError):  # the test has read all that it says
            process.communicate(timeout=60)


def wait_until(done: Callable[[], object], timeout_s: float = 200) -> None:
    """Look again and again; the test fails when it does not come true."""
    end_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.02)
