"""The schema of a site file, which describes a batch system. One YAML file for each, below configs/sites."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from embedcube.campaign.fields import Block, read_yaml
from embedcube.campaign.how import Dask, How
from embedcube.campaign.load import first_error
from embedcube.campaign.schema import Campaign, Name
from embedcube.errors import RequestError


def _word(text: str) -> str:
    # these words end up in a shell script
    if not re.fullmatch(r"[\w.:,/@%+=-]+", text):
        raise ValueError(f"{text!r} holds what has no place in the name of a partition, module, path or option")
    return text


_RANKS_SHARE = 0.9
"""Share of a node's memory that its ranks may use together."""

Word = Annotated[str, AfterValidator(_word)]


class Container(Block):
    """An image (Apptainer) inside of which commands are run."""

    image: Word
    """path of a .sif file or sandbox, as seen from the compute nodes"""
    binds: tuple[Word, ...] = ()
    """folders that the container sees too: every folder that a campaign names, for example [/data, /scratch]"""
    nvidia: bool = False
    """whether the container gets the GPUs of the node (--nv)"""


class CpuNodes(Block):
    """Nodes without GPUs."""

    partition: Word
    """partition of these nodes"""
    cpus_per_node: int = Field(gt=0)
    """cores of a node"""
    mem_gb_per_node: float = Field(gt=0)
    """memory of a node that jobs may use (GB)"""
    time_min: int = Field(60, gt=0)
    """time limit of a job on these nodes (minutes)"""


class StageJob(Block):
    """The job of a stage that needs less than a task: one process, and at most one GPU."""

    partition: Word | None = None
    """by default that of the tasks, as it needs the same kind of device"""
    cpus: int = Field(8, gt=0)
    """cores, where nodes are shared"""
    mem_gb: float | None = Field(None, gt=0)
    """memory (GB), where nodes are shared; by default the cores' share of a node, and at least that of one rank"""
    time_min: int = Field(60, gt=0)
    """time limit (minutes)"""


class Site(Block):
    """A batch system."""

    site: Name
    """name of the site, shown in messages, for example levante"""
    partition: Word | None = None
    """partition that jobs are submitted to; by default that of Slurm"""
    account: Word | None = None
    """account that is billed, unless the campaign names another"""
    cpus_per_node: int = Field(gt=0)
    """cores of a node"""
    mem_gb_per_node: float = Field(gt=0)
    """memory of a node that jobs may use (GB)"""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of a node; 0 where it has none"""
    gpu_option: Literal["gres", "gpus-per-node"] = "gres"
    """option of Slurm that requests GPUs"""
    constraint: Word | None = None
    """value of sbatch --constraint, for example a kind of GPU; by default none"""
    exclusive: bool = True
    """whether jobs get whole nodes, with all of their memory"""
    hint: Literal["nomultithread"] | None = None
    """value of sbatch --hint: nomultithread uses one hardware thread of each core; by default none"""
    time_min: int = Field(60, gt=0)
    """time limit of a task (minutes), unless the campaign sets another"""
    max_time_min: int = Field(gt=0)
    """longest time that the site allows for a job (minutes)"""
    lead_s: int = Field(300, ge=60, lt=65536)
    """seconds before the end of its time at which a job gets a signal, to finish and write the shards in work"""
    requeue: bool = True
    """whether jobs may requeue themselves; if not, consolidation submits them again"""
    max_requeues: int = Field(20, ge=0)
    """number of times that one job may requeue itself"""
    resubmissions: int = Field(3, ge=0)
    """number of times that consolidation may submit missing shards again"""
    max_array: int = Field(1001, gt=0)
    """MaxArraySize of Slurm: the indices of an array must be smaller"""
    parallel: int = Field(100, gt=0)
    """tasks of the campaign that may run at once"""
    max_files: int | None = Field(None, gt=0)
    """number of files that the quota allows"""
    quota: tuple[Word, ...] = ()
    """words of the command that prints the quota, for `embedcube doctor`"""
    purge_days: int | None = Field(None, gt=0)
    """days after which the file system of the runs deletes files"""
    host_suffix: str = Field("", pattern=r"^[\w.-]*$")
    """suffix that makes the name of a node its name in the fast network"""
    interface: Word | None = None
    """interface of the fast network"""
    mpi: Word | None = None
    """value of the option --mpi of srun"""
    time_zone: str | None = None
    """time zone of the clocks of the nodes, such as "Europe/Berlin" """
    umask: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] | None = None
    """umask of jobs, such as "0027" """
    group: Word | None = None
    """group that the files of a run belong to"""
    modules: tuple[Word, ...] = ()
    """modules that jobs load"""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")], Word] = Field(default_factory=dict)
    """environment variables of jobs"""
    name_gpus: bool = False
    """whether job scripts name all GPUs of the job in CUDA_VISIBLE_DEVICES, where Slurm (psslurm at JSC) would let each
    process see one alone: here one process on each node starts the ranks of all GPUs"""
    poll_s: float = Field(30, gt=0)
    """seconds between two queries of the queue, by commands that wait"""
    cpu_nodes: CpuNodes | None = None
    """nodes for consolidation, which needs no GPU, and for all jobs of a campaign with `device: cpu`"""
    prepare: StageJob = StageJob()
    """the job of index, fit and plan (`prepare_in_job`)"""
    verify: StageJob = StageJob()
    """the job of verification"""
    dask: Dask | None = None
    """Dask workers of consolidation, unless the campaign sets others"""
    container: Container | None = None
    """without one, jobs use the Python that submits them"""
    prepare_in_job: bool = False
    """whether index, fit and plan run in a job too, where the login node is not for computing"""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str | None) -> str | None:
        if zone is not None and zone not in available_timezones():
            raise ValueError(f'"{zone}" is no time zone; write for example Europe/Berlin')
        return zone

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        if self.time_min > self.max_time_min:
            raise ValueError(f"time_min {self.time_min} is more than max_time_min {self.max_time_min}")
        return self

    @property
    def for_consolidation(self) -> "Site":
        """The site for consolidation: with the nodes without GPUs, if it has such nodes."""
        if self.cpu_nodes is None:
            return self
        return self.model_copy(update=self.cpu_nodes.model_dump() | {"gpus_per_node": 0, "constraint": None})

    def for_device(self, device: str) -> "Site":
        """The site for tasks on a device: with `cpu` its nodes without GPUs, if it has such nodes."""
        if device == "cuda" or self.cpu_nodes is None:
            return self
        return self.for_consolidation.model_copy(update={"time_min": self.time_min})


def load_site(campaign: Campaign) -> Site:
    """The site that the campaign names.

    Raises:
        RequestError: the campaign names no site, or the file does not describe one.
    """
    path = campaign.how.site
    if path is None:
        raise RequestError("how.site: a batch system is described by a file, for example ../sites/levante.yaml")
    return read_site(path).for_device(campaign.how.device)


def read_site(path: Path) -> Site:
    """The site that a file describes.

    Raises:
        RequestError: the file does not describe one.
    """
    try:
        return Site.model_validate(read_yaml(path))
    except OSError as error:
        raise RequestError(f"how.site: {error}") from None
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error)}") from None


def at_site(campaign: Campaign, site: Site) -> Campaign:
    """The campaign with the open values of its `how` set for the nodes of the site instead of this machine.

    Raises:
        RequestError: the campaign asks for more than the site allows.
    """
    how = campaign.how
    ranks = how.ranks if "ranks" in how.model_fields_set else site.gpus_per_node or site.cpus_per_node
    threads = how.threads or max(1, site.cpus_per_node // ranks)
    if how.device == "cuda" and ranks > site.gpus_per_node:
        raise RequestError(f"how.ranks: {ranks} on a node with {site.gpus_per_node} GPUs; one rank has one device")
    if ranks * threads > site.cpus_per_node:
        raise RequestError(
            f"how: {ranks} ranks with {threads} threads each on a node of {site.cpus_per_node} cores; write fewer"
        )
    time_min = how.time_min or site.time_min
    if time_min > site.max_time_min:
        raise RequestError(f"how.time_min: {time_min} minutes, {site.site} allows {site.max_time_min}")
    mem_gb = how.mem_gb or _RANKS_SHARE * site.mem_gb_per_node / ranks
    if mem_gb * ranks > site.mem_gb_per_node:
        raise RequestError(
            f"how.mem_gb: {ranks} ranks with {mem_gb:g} GB each on a node with {site.mem_gb_per_node:g} GB; write less"
        )
    dask = site.dask if site.dask and "dask" not in how.model_fields_set else how.dask
    _refuse_dask(dask, how, site)
    settled = {"ranks": ranks, "threads": threads, "time_min": time_min, "mem_gb": mem_gb, "dask": dask}
    return campaign.model_copy(update={"how": how.model_copy(update=settled)})


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job asks of each of its nodes."""

    partition: str | None
    constraint: str | None
    cpus: int
    gpus: int
    mem_gb: float
    """not asked for where nodes are exclusive: a job gets all of it"""
    time_min: int


def resources(stage: str, campaign: Campaign, site: Site) -> Resources:
    """What the job of a stage asks for; the campaign's `how` is already resolved for the site.

    Tasks get whole nodes. `prepare` and `verify` are one process that uses the device of the tasks for minutes;
    consolidation needs no device.
    """
    how = campaign.how
    gpus = site.gpus_per_node if how.device == "cuda" else 0
    if stage == "consolidate" and site.cpu_nodes is not None:
        nodes = site.cpu_nodes
        return Resources(
            partition=nodes.partition,
            constraint=None,
            cpus=nodes.cpus_per_node,
            gpus=0,
            mem_gb=nodes.mem_gb_per_node,
            time_min=nodes.time_min,
        )
    if stage in ("prepare", "verify"):
        job = site.prepare if stage == "prepare" else site.verify
        cpus = site.cpus_per_node if site.exclusive else min(job.cpus, site.cpus_per_node)
        share = max(site.mem_gb_per_node * cpus / site.cpus_per_node, (how.mem_gb or 0) / _RANKS_SHARE)
        return Resources(
            partition=job.partition or site.partition,
            constraint=site.constraint,
            cpus=cpus,
            gpus=min(1, gpus),
            mem_gb=job.mem_gb or min(site.mem_gb_per_node, share),
            time_min=min(job.time_min, site.max_time_min),
        )
    return Resources(
        partition=site.partition,
        constraint=site.constraint,
        cpus=site.cpus_per_node,
        # on exclusive nodes with GPUs some sites refuse a job that asks for none
        gpus=gpus if stage != "consolidate" else min(1, gpus) * site.exclusive,
        mem_gb=site.mem_gb_per_node,
        time_min=how.time_min or site.time_min,
    )


def time_key(stage: str, site: Site) -> str:
    """The key that sets the time limit of the job of a stage, in words."""
    if stage in ("prepare", "verify"):
        return f"{stage}.time_min of the site's file"
    if stage == "consolidate" and site.cpu_nodes is not None:
        return "cpu_nodes.time_min of the site's file"
    return "how.time_min"


def tasks_at_once(campaign: Campaign, site: Site) -> int:
    """Number of the campaign's tasks that may run at the same time."""
    return min(site.parallel, campaign.how.parallel or site.parallel)


def processes_per_node(dask: Dask, nodes: int) -> int:
    """Processes of consolidation on each node; where all are started together, with a scheduler and a client."""
    return -(-(dask.workers + 2) // nodes) if dask.kind in ("slurm_runner", "mpi") else 1


def _refuse_dask(dask: Dask, how: How, site: Site) -> None:
    place, cores = f"how.dask.kind {dask.kind}", site.for_consolidation.cpus_per_node
    if dask.kind == "slurm_cluster" and site.container is not None:
        raise RequestError(f"{place}: there is no sbatch in a container to start workers with; write slurm_runner")
    if dask.kind == "mpi" and site.mpi is None:
        raise RequestError(
            f"{place}: {site.site} does not say srun's --mpi (mpi); write it there, or slurm_runner here"
        )
    processes = processes_per_node(dask, how.nodes)
    if processes > cores:
        raise RequestError(
            f"how.dask.workers: {dask.workers}, a scheduler and a client are {processes} processes on each of "
            f"{how.nodes} nodes with {cores} cores; write fewer workers, or more nodes"
        )
