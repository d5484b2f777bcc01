"""Parents of one task: one alone, or several as srun starts one on each node; here all of them on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


def parent(campaign: Campaign, number: int, **environment: str) -> "subprocess.Popen[str]":
    """One of two."""
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(number),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NUM_NODES": "2",
    }
    return subprocess.Popen(
        (EMBEDCUBE, "embed", campaign.file, "--task", "0"),
        env=os.environ | step | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )


@contextmanager
def embedding(campaign: Campaign, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """`embed` in a process group of its own, of which nothing is left after the block."""
    process = subprocess.Popen(
        (EMBEDCUBE, "embed", campaign.file),
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
        process.communicate(timeout=60)


def wait_until(done: Callable[[], object], timeout_s: float = 200) -> None:
    """Look again and again; the test fails when it does not come true."""
    end_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.02)
