"""A Dask client for consolidation, with workers in this process, on this machine, or on nodes of a batch system.

With `slurm_runner` and `mpi` every process of one job step calls `dask_client`: one becomes the scheduler, one goes on
as the client, the others are workers and end within the call.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import load_site
from embedcube.errors import RequestError
from embedcube.jobs.slurm import forget_own_job, setup_lines

_DASHBOARD = "127.0.0.1:0"
"""any free port, as several campaigns may be consolidated on one machine; not reachable from other machines"""


@contextmanager
def dask_client(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client (distributed.Client) with the workers that `how.dask` asks for; they end with the block.

    Raises:
        RequestError: there are fewer than three processes, for a scheduler, a client and a worker.
    """
    kinds: dict[str, Callable[[Campaign, RunDir], Any]] = {
        "threads": _local,
        "processes": _local,
        "slurm_cluster": _slurm_cluster,
        "slurm_runner": _slurm_runner,
        "mpi": _mpi,
    }
    with kinds[campaign.how.dask.kind](campaign, run) as client, _reported(campaign, run):
        yield client


@contextmanager
def _reported(campaign: Campaign, run: RunDir) -> Iterator[None]:
    """Have Dask write its performance report, if there are several processes and Bokeh is installed."""
    if campaign.how.dask.kind == "threads" or find_spec("bokeh") is None:
        yield
        return
    from distributed import performance_report

    run.report.mkdir(exist_ok=True)
    # inline: on a cluster there may be no internet to fetch scripts from
    with replacing(run.dask_report) as temporary, performance_report(filename=str(temporary), mode="inline"):
        yield


@contextmanager
def _local(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    how = campaign.how
    in_process = how.dask.kind == "threads"
    with (
        LocalCluster(
            n_workers=1 if in_process else how.dask.workers,
            threads_per_worker=how.threads_per_rank * how.ranks if in_process else how.dask.threads,
            processes=not in_process,
            dashboard_address=_DASHBOARD,
            memory_limit=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _slurm_cluster(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client whose workers are Slurm jobs, as many as there is work for. Needs `sbatch`, so not in a container."""
    from dask_jobqueue.slurm import SLURMCluster
    from distributed import Client

    how, named = campaign.how, load_site(campaign)
    site = named.for_consolidation
    forget_own_job()
    options = [f"--constraint={site.constraint}"] if site.constraint else []
    run.job_logs.mkdir(parents=True, exist_ok=True)
    with (
        SLURMCluster(
            queue=site.partition,
            account=how.account or site.account,
            cores=how.dask.threads,
            processes=1,
            memory=f"{site.mem_gb_per_node * how.dask.threads / site.cpus_per_node:.1f}GB",
            walltime=f"{site.time_min if named.cpu_nodes else how.time_min or site.time_min}",
            interface=site.interface,
            job_extra_directives=options + (["--exclusive"] if site.exclusive else []),
            job_script_prologue=setup_lines(site),
            log_directory=str(run.job_logs),
            python=sys.executable,
            scheduler_options={"dashboard_address": _DASHBOARD} | ({} if site.interface else {"host": _own_address()}),
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(minimum_jobs=1, maximum_jobs=how.dask.workers)
        yield client


@contextmanager
def _slurm_runner(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    from dask_jobqueue.slurm import SLURMRunner
    from distributed import Client

    _refuse_small_world(int(os.environ.get("SLURM_NTASKS", "1")), campaign)
    if os.environ["SLURM_PROCID"] != "1":
        # the scheduler and the workers end by a signal to themselves, when their work is done
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    run.job_logs.mkdir(parents=True, exist_ok=True)
    # with the number of restarts: a requeued job keeps its id, and would read the address of the dead scheduler
    start = f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    with (
        SLURMRunner(
            scheduler_file=str(run.job_logs / f"scheduler-{start}.json"),
            scheduler_options={"dashboard": False, "interface": load_site(campaign).interface},
            worker_options={"nthreads": campaign.how.dask.threads, "memory_limit": 0},
        ) as runner,
        Client(runner) as client,
    ):
        yield client


@contextmanager
def _mpi(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    import dask_mpi
    from distributed import Client
    from mpi4py import MPI

    _refuse_small_world(MPI.COMM_WORLD.Get_size(), campaign)
    interface = load_site(campaign).interface if campaign.how.site else None
    threads = campaign.how.dask.threads
    # ends scheduler and workers by SystemExit: all processes must leave MPI together, when the interpreter ends
    dask_mpi.initialize(interface=interface, nthreads=threads, memory_limit=0, dashboard=False)
    with Client() as client:
        yield client


def _refuse_small_world(processes: int, campaign: Campaign) -> None:
    if processes < 3:
        raise RequestError(
            f"how.dask.kind {campaign.how.dask.kind}: {processes} processes, a scheduler, a client and a worker are "
            "three; start `embedcube consolidate` by srun or mpiexec with more"
        )


def _own_address() -> str:
    return socket.gethostbyname(socket.gethostname())
