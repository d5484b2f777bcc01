"""Several parents of one task, as srun starts one on each node; here all of them on this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import Campaign

EMBEDCUBE = Path(sys.executable).parent / "embedcube"


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
        text=True,
    )


def test_a_rank_that_cannot_start_on_another_node_fails_the_task_by_name(demo: Campaign) -> None:
    """Far sooner than the ten minutes in which ranks must meet, and for good: to start again would not help."""
    demo.change(lambda document: document["how"].update(ranks=1, threads=1))
    demo.cli("run", "--until", "plan")
    first, second = parent(demo, 0), parent(demo, 1, MKL_CBWR="COMPATIBLE")
    said = [process.communicate(timeout=400)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 0), said
    assert "30 of 30 shards are undone; a rank failed: " in said[0]
    assert re.search("has mkl COMPATIBLE.*, the plan was made for ", said[0])
    assert "embed-0000-7-0-0-0001.log" in said[0]
