"""Every path of a run, and the one way a file is written.

The run folder is the architecture: each stage reads files here and writes files here.

    runs/<campaign>/
      campaign.yaml                      the campaign as resolved, with its digest
      inventory.parquet, inventory.json  index        archive   -> inventory, and its digest
      remembered.parquet                 index        what it found out of single files, for the next `index`
      weights/<layer>.safetensors, .json fit          a sample  -> frozen weights, and their digest
      weights/<layer>-<key>.pt2          plan         the compiled forward pass of a layer that asks for it
      plan.parquet, plan.json            plan         inventory -> shards with recipes, tasks, price; and digests
      plan/<token>-<number>.parquet      plan         instead of plan.parquet, where there are very many shards
      verdicts.json                      embed        scenes that were found broken while they were read
      pilot.json                         submit       the rows of the plan that are embedded first
      parts/<task>/<attempt>/<rank>/     embed        shards    -> a part (pack, records, quarantine)
      parts/<task>/<attempt>/left.json   embed        what the attempt has to do, for its ranks
      parts/<task>/<attempt>/recorded-*  embed        what the ranks of one parent have recorded, as a table
      recorded-*.parquet                 submit       what is recorded at all, as a table; may be removed
      parts/base/<start>/<number>/       plan         the parts of the shards that come from `how.base`
      cubes/<version>.zarr               consolidate  parts     -> cube; <version>.preview.zarr beside it: preview
      cube.zarr                          a relative symlink to the newest version
      report/                            verify, preview, report
      image.json                         submit       the digest of the container's image
      submissions.jsonl                  submit       the jobs given to the batch system
      submit.lock                        submit       exists while one `submit` is at work
      logs/                              logs of the ranks; in slurm/ scripts and output of the jobs
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedcube.errors import naming

TEMPORARY_PREFIX = ".tmp-"
"""Files whose names begin so are unfinished writes of a killed process: never read, safe to delete."""

_RECORDED = "recorded-"


@dataclass(frozen=True)
class RunDir:
    """The folder of one campaign; the owner of every path in it."""

    root: Path
    """`runs/<campaign>`"""

    @property
    def campaign(self) -> Path:
        """The campaign as resolved."""
        return self.root / "campaign.yaml"

    @property
    def inventory(self) -> Path:
        """The table of all scenes (STAC-GeoParquet)."""
        return self.root / "inventory.parquet"

    @property
    def inventory_seal(self) -> Path:
        """The digest of the inventory."""
        return self.root / "inventory.json"

    @property
    def remembered(self) -> Path:
        """What `index` found out of single files, for the next `index`; no other stage needs it."""
        return self.root / "remembered.parquet"

    @property
    def weights_folder(self) -> Path:
        """The frozen weights of all layers."""
        return self.root / "weights"

    def weights(self, layer: str) -> Path:
        """The frozen weights of a layer."""
        return self.weights_folder / f"{layer}.safetensors"

    def weights_seal(self, layer: str) -> Path:
        """The digest of the frozen weights of a layer."""
        return self.weights_folder / f"{layer}.json"

    def program(self, layer: str, compiled_for: str, digest: str) -> Path:
        """The compiled forward pass of a layer, by the digests of all that it depends on and of its bytes."""
        return self.weights_folder / f"{layer}-{compiled_for[:16]}-{digest[:16]}.pt2"

    def programs(self, layer: str, compiled_for: str) -> list[Path]:
        """All compiled forward passes of a layer for one digest: one, or more where two plans were made at once."""
        return sorted(self.weights_folder.glob(f"{layer}-{compiled_for[:16]}-*.pt2"))

    @property
    def plan(self) -> Path:
        """The table of all shards: one row per shard. A plan of very many has files in `plan_folder` instead."""
        return self.root / "plan.parquet"

    @property
    def plan_folder(self) -> Path:
        """The files of a plan of very many shards, which has no `plan`."""
        return self.root / "plan"

    def plan_file(self, token: str, number: int) -> str:
        """Name in the run folder of one of these files; no two plans have the same token."""
        return f"{self.plan_folder.name}/{token}-{number:04d}.parquet"

    @property
    def pilot(self) -> Path:
        """The numbers of the rows of the plan that are embedded first, as one more task."""
        return self.root / "pilot.json"

    @property
    def plan_summary(self) -> Path:
        """The facts of all rows of the plan: layers, versions, price; and the digest of `plan`."""
        return self.root / "plan.json"

    @property
    def verdicts(self) -> Path:
        """The scenes that were found broken while they were read; no file where there are none."""
        return self.root / "verdicts.json"

    @property
    def parts(self) -> Path:
        """The folder of all parts."""
        return self.root / "parts"

    def task(self, task: int) -> Path:
        """The folder of all attempts of a task."""
        return self.parts / f"{task:04d}"

    def part(self, task: int, attempt: str, rank: int) -> Path:
        """The folder of one rank in one attempt; no other process ever writes there."""
        return self.task(task) / attempt / f"{rank:04d}"

    def left(self, task: int, attempt: str) -> Path:
        """What an attempt of a task had to do when it began."""
        return self.task(task) / attempt / "left.json"

    def recorded_by(self, task: int, attempt: str, parent: int, digest: str) -> Path:
        """The table of what the ranks of one parent have recorded in an attempt; its name has its digest."""
        return self.task(task) / attempt / f"{_RECORDED}{parent:04d}-{digest}.parquet"

    def recorded_of_attempts(self, folder: str = "*") -> list[Path]:
        """The tables of single attempts, or those below one folder of `parts`."""
        return sorted(self.parts.glob(f"{folder}/*/{_RECORDED}*.parquet"))

    def recorded_as(self, digest: str) -> Path:
        """The table of all that was recorded when `submit` was called; its name has its digest."""
        return self.root / f"{_RECORDED}{digest}.parquet"

    def recorded(self) -> list[Path]:
        """The tables of all that was recorded: one, or more where one was just made."""
        return sorted(self.root.glob(f"{_RECORDED}*.parquet"))

    def adopted_part(self, start: str, number: int) -> Path:
        """The folder of a part whose shards were taken from another run; `start` names the process that took them."""
        return self.parts / "base" / start / f"{number:04d}"

    @property
    def cubes(self) -> Path:
        """The folder of all versions of the cube."""
        return self.root / "cubes"

    def cube(self, version: str) -> Path:
        """One version of the cube."""
        return self.cubes / f"{version}.zarr"

    def catalogue(self, version: str) -> Path:
        """The folder of the STAC Collection and Items that describe a version of the cube."""
        return self.cubes / f"{version}-stac"

    def cube_under_construction(self, version: str, owner: str) -> Path:
        """A new place where `consolidate` builds a version before it is renamed; two calls never share one.

        `owner` says which process builds it, for people to read.
        """
        return self.cubes / f"{TEMPORARY_PREFIX}{version}.{owner}-{secrets.token_hex(4)}.zarr"

    def cubes_under_construction(self, version: str = "*") -> list[Path]:
        """Unfinished cubes of one version, or of all, whoever began them."""
        return sorted(self.cubes.glob(f"{TEMPORARY_PREFIX}{version}.*.zarr"))

    @property
    def newest_cube(self) -> Path:
        """A relative symlink to the newest version."""
        return self.root / "cube.zarr"

    @property
    def submissions(self) -> Path:
        """One line per call of `submit`: its options and the ids of its jobs."""
        return self.root / "submissions.jsonl"

    @property
    def submit_lock(self) -> Path:
        """Exists while a `submit` is at work; says which."""
        return self.root / "submit.lock"

    @property
    def image(self) -> Path:
        """The digest of the container's image, with the size and time of the file for which it holds."""
        return self.root / "image.json"

    @property
    def report(self) -> Path:
        """The folder of findings and pictures."""
        return self.root / "report"

    @property
    def dask_report(self) -> Path:
        """Dask's report on the time of consolidation."""
        return self.report / "dask.html"

    def dask_log(self, process: str) -> Path:
        """Warnings of Dask in one process of consolidation; no file where there are none."""
        return self.logs / f"dask-{process}.log"

    def dask_secrets(self, start: str = "*") -> list[Path]:
        """The private folder of one start of consolidation, with its certificate; or of all starts that have one."""
        name = f"{TEMPORARY_PREFIX}dask-{start}"
        return sorted(self.job_logs.glob(name)) if start == "*" else [self.job_logs / name]

    @property
    def logs(self) -> Path:
        """The folder of the logs of the ranks."""
        return self.root / "logs"

    @property
    def job_logs(self) -> Path:
        """The folder of scripts and output of jobs."""
        return self.logs / "slurm"

    def rank_log(self, task: int, attempt: str, rank: int) -> Path:
        """The log of one rank in one attempt."""
        return self.logs / f"embed-{task:04d}-{attempt}-{rank:04d}.log"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to; on success it becomes `path`, whole or not at all.

    fsync of the file, rename, fsync of the folder: survives a kill at any line, and a power cut after the block.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{secrets.token_hex(4)}")
    try:
        with naming(path):
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point_symlink(link: Path, target: Path) -> None:
    """Make `link` a relative symlink to `target`, replacing an older one by rename."""
    temporary = link.with_name(f"{TEMPORARY_PREFIX}{link.name}.{secrets.token_hex(4)}")
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
    fsync_folder(link.parent)
