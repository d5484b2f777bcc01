"""Commands of Slurm for jobs of this machine: what dask-jobqueue needs of a batch system, and no more."""

import os
from pathlib import Path

import pytest

SBATCH = 'cp "$1" "$0-script"\nsetsid bash "$0-script" > "$0-output" 2>&1 &\necho "Submitted batch job $!"'
SCANCEL = 'kill -- "-$1"'


def install(folder: Path, patch: pytest.MonkeyPatch, *, sbatch: str = SBATCH, squeue: str = "exit 1") -> None:
    """Put the commands, as bash scripts, into a new folder, and that on the path."""
    folder.mkdir()
    for name, script in {"sbatch": sbatch, "scancel": SCANCEL, "squeue": squeue}.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
