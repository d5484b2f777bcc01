"""The `how` block of a campaign file: how the work is done. Nothing here is part of the campaign's digest."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from embedcube.campaign.fields import Block
from embedcube.machine import cores, gpus, memory_bytes
from embedcube.printable import printable, without_credentials


class Dask(Block):
    """The Dask workers that make the cube of the parts."""

    kind: Literal["threads", "processes", "slurm_cluster", "slurm_runner", "mpi"] = "threads"
    """kind of the workers: threads of this process; processes on this machine; Slurm jobs (dask-jobqueue); or the
    processes that one `srun` or `mpiexec` started, of which one is the scheduler and one the client"""
    workers: int = Field(2, gt=0)
    """number of workers, all nodes together; `slurm_cluster` on whole nodes rounds it up, so that it fills the last"""
    threads: int = Field(2, gt=0)
    """threads of one worker"""
    wait_min: int = Field(60, gt=0)
    """minutes without any worker after which consolidation ends; jobs of `slurm_cluster` may wait in the queue"""


class How(Block):
    """How the campaign is computed. Nothing here changes a byte of the cube, except the device, which recipes name."""

    runs: Path = Path("runs")
    """the folder of run folders, relative to the campaign file"""
    base: Path | None = None
    """an earlier run folder or cube, here or copied from another centre: shards with equal recipes are taken from there
    and not embedded again, and layers without weights of their own take its weights; relative to the campaign file"""
    executor: str = "local"
    """where tasks run: local (this machine), slurm (jobs; `site` describes the batch system), or an installed plugin"""
    site: Path | None = None
    """the file that describes the batch system; relative to the campaign file"""
    tasks: int = Field(1, gt=0)
    """number of tasks that the shards are divided into; with Slurm each is one element of a job array"""
    parallel: int | None = Field(None, gt=0)
    """number of tasks that may run at once on a batch system; by default that of the site"""
    nodes: int = Field(1, gt=0)
    """nodes of one task on a batch system"""
    time_min: int | None = Field(None, gt=0)
    """minutes that one task may take on a batch system; by default those of the site"""
    account: str | None = Field(None, pattern=r"^[\w.-]+$")
    """account that the batch system bills; by default that of the site"""
    device: Literal["cpu", "cuda"] = "cpu"
    """device of each rank: cpu, or cuda for NVIDIA GPUs. Its class is in the recipes, as a GPU rounds otherwise"""
    ranks: int = Field(default_factory=lambda how: gpus() if how.get("device") == "cuda" else cores(), gt=0)
    """processes of a task on each of its nodes; with GPUs one for each, on a CPU one for each core is fastest"""
    threads: int | None = Field(None, gt=0)
    """threads of one rank; by default the machine's cores divided by the ranks"""
    mem_gb: float | None = Field(None, gt=0)
    """memory of one rank (GB); by default three quarters of what this process may use, divided by the ranks"""
    cache_mb: int = Field(256, gt=0)
    """memory for decoded blocks that a rank keeps between neighbouring shards (MiB)"""
    error_budget: float = Field(0.1, ge=0, le=1)
    """share of the scenes that may be unreadable before the campaign fails; those that `index` asks about, by what
    their pixels say against their metadata, do not count"""
    read_attempts: int = Field(4, gt=0)
    """number of times that a read is tried when it fails for a reason that may pass"""
    dask: Dask = Dask()
    """workers that make the cube of the parts; on a batch system by default those of the site file"""
    retry_quarantined: bool = False
    """embed the shards of unreadable scenes again, because their files can be read now: `embed` without --task, `run`
    and `submit` then begin with the first round, in which all scenes are read"""

    @field_validator("base", mode="before")
    @classmethod
    def _is_here(cls, base: object) -> object:
        if isinstance(base, str) and "://" in base:
            words = "a base is a folder here: copy the cube with `embedcube pull`, and name the copy"
            raise ValueError(f"{printable(without_credentials(base))}: {words}")
        return base

    @property
    def threads_per_rank(self) -> int:
        """`threads`, or this machine's cores divided by the ranks."""
        return self.threads or max(1, cores() // self.ranks)

    @property
    def mem_bytes_per_rank(self) -> int:
        """`mem_gb` in bytes, or three quarters of this machine's memory divided by the ranks."""
        if self.mem_gb is not None:
            return int(self.mem_gb * 1e9)
        return memory_bytes() * 3 // 4 // self.ranks
