"""A site: what a batch system offers and wants, as data. One YAML file for each, below configs/sites."""

import re
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from embedcube.campaign.fields import Block
from embedcube.campaign.how import Dask, How
from embedcube.campaign.load import first_error
from embedcube.campaign.schema import Campaign, Name
from embedcube.errors import RequestError


def _word(text: str) -> str:
    # these words end up in a shell script
    if not re.fullmatch(r"[\w.:,/@%+=-]+", text):
        raise ValueError(f"{text!r} holds what has no place in the name of a partition, module, path or option")
    return text


Word = Annotated[str, AfterValidator(_word)]


class Container(Block):
    """How commands are run inside of an image (Apptainer)."""

    image: Word
    """path of a .sif file or sandbox, as seen from the compute nodes"""
    binds: tuple[Word, ...] = ()
    nvidia: bool = False
    """give it the node's GPUs (--nv)"""


class CpuNodes(Block):
    """Nodes without GPUs."""

    partition: Word
    cpus_per_node: int = Field(gt=0)
    mem_gb_per_node: float = Field(gt=0)
    time_min: int = Field(60, gt=0)
    """of a job there"""


class Site(Block):
    """A batch system."""

    site: Name
    partition: Word | None = None
    account: Word | None = None
    """that is billed, unless the campaign names another"""
    cpus_per_node: int = Field(gt=0)
    mem_gb_per_node: float = Field(gt=0)
    gpus_per_node: int = Field(0, ge=0)
    gpu_option: Literal["gres", "gpus-per-node"] = "gres"
    """how GPUs are asked for"""
    constraint: Word | None = None
    exclusive: bool = True
    """whole nodes, with all of their memory"""
    hint: Literal["nomultithread"] | None = None
    time_min: int = Field(60, gt=0)
    """of a task, unless the campaign says otherwise"""
    max_time_min: int = Field(gt=0)
    lead_s: int = Field(300, ge=60, lt=65536)
    """before the end of its time a job is warned: what is in flight is finished and written"""
    requeue: bool = True
    """jobs may requeue themselves; where not, consolidation submits them again"""
    max_requeues: int = Field(20, ge=0)
    """of one job"""
    resubmissions: int = Field(3, ge=0)
    """of what consolidation finds missing"""
    max_array: int = Field(1001, gt=0)
    """MaxArraySize: indices of an array are smaller"""
    parallel: int = Field(100, gt=0)
    """tasks of the campaign that may run at once"""
    max_files: int | None = Field(None, gt=0)
    """that the quota leaves"""
    quota: tuple[Word, ...] = ()
    """words of the command that prints what the quota leaves, for `embedcube doctor`"""
    purge_days: int | None = Field(None, gt=0)
    """after which the file system of runs deletes files"""
    host_suffix: str = Field("", pattern=r"^[\w.-]*$")
    """makes a node's name that of its fast network"""
    interface: Word | None = None
    """of the fast network"""
    mpi: Word | None = None
    """srun's --mpi"""
    time_zone: str | None = None
    """of the nodes' clocks, as "Europe/Berlin" """
    umask: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] | None = None
    """of jobs, as "0027" """
    group: Word | None = None
    """that files of a run belong to"""
    modules: tuple[Word, ...] = ()
    """loaded by jobs"""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")], Word] = Field(default_factory=dict)
    """of jobs"""
    poll_s: float = Field(30, gt=0)
    """between two looks at the queue, by those who wait"""
    cpu_nodes: CpuNodes | None = None
    """for consolidation, which needs no GPU"""
    dask: Dask | None = None
    """who consolidates, unless the campaign says otherwise"""
    container: Container | None = None
    """without one, jobs use the Python that submits them"""
    prepare_in_job: bool = False
    """index, fit and plan in a job too: the login node is not for computing"""

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
        """The site as consolidation sees it: the nodes without GPUs, where there are some."""
        if self.cpu_nodes is None:
            return self
        return self.model_copy(update=self.cpu_nodes.model_dump() | {"gpus_per_node": 0, "constraint": None})


def load_site(campaign: Campaign) -> Site:
    """The site that the campaign names.

    Raises:
        RequestError: it names none, or the file is not a site.
    """
    path = campaign.how.site
    if path is None:
        raise RequestError("how.site: a batch system is described by a file, for example ../sites/levante.yaml")
    try:
        return Site.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise RequestError(f"how.site: {error}") from None
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error)}") from None


def at_site(campaign: Campaign, site: Site) -> Campaign:
    """The campaign with what its `how` leaves open settled for the site's nodes instead of this machine.

    Raises:
        RequestError: the site would refuse it.
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
    mem_gb = how.mem_gb or 0.9 * site.mem_gb_per_node / ranks
    if mem_gb * ranks > site.mem_gb_per_node:
        raise RequestError(
            f"how.mem_gb: {ranks} ranks with {mem_gb:g} GB each on a node with {site.mem_gb_per_node:g} GB; write less"
        )
    dask = site.dask if site.dask and "dask" not in how.model_fields_set else how.dask
    _refuse_dask(dask, how, site)
    settled = {"ranks": ranks, "threads": threads, "time_min": time_min, "mem_gb": mem_gb, "dask": dask}
    return campaign.model_copy(update={"how": how.model_copy(update=settled)})


def processes_per_node(dask: Dask, nodes: int) -> int:
    """Of consolidation: where all are started together, there is a scheduler and a client beside the workers."""
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
