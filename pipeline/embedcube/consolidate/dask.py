"""A Dask client for consolidation, with workers in this process, on this machine, or on nodes of a batch system.

With `slurm_runner` and `mpi` every process of one job step calls `dask_client`: one becomes the scheduler, one goes on
as the client, the others are workers and end within the call. No process listens without TLS, and none on all
interfaces (`alone.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any

from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.alone import JOIN_S, NO_HTTP, certificate, security_of, settings
from embedcube.consolidate.endings import opened
from embedcube.consolidate.on_nodes import mpi, slurm_cluster, slurm_runner
from embedcube.consolidate.quiet import quiet


@contextmanager
def dask_client(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client (distributed.Client) with the workers that `how.dask` asks for; they end with the block.

    Raises:
        RequestError: there are fewer than three processes, for a scheduler, a client and a worker; or Slurm refuses
            the jobs of workers.
        StartAgain: scheduler and workers did not come together in time.
    """
    import dask

    kinds: dict[str, Callable[[Campaign, RunDir], AbstractContextManager[Any]]] = {
        "threads": _threads,
        "processes": _processes,
        "slurm_cluster": slurm_cluster,
        "slurm_runner": slurm_runner,
        "mpi": mpi,
    }
    with (
        quiet(run),
        dask.config.set(settings(campaign, run)),
        kinds[campaign.how.dask.kind](campaign, run) as client,
        _reported(campaign, run),
    ):
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
    with replacing(run.dask_report) as temporary:
        report = performance_report(filename=str(temporary), mode="inline")
        report.__enter__()
        yield  # an error leaves here: it is not covered by one of a report that nobody can make any more
        report.__exit__(None, None, None)


# --- on this machine ------------------------------------------------------------------------------


@contextmanager
def _threads(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client whose scheduler and worker are in this process. Nothing listens."""
    from distributed import Client, Scheduler, SpecCluster, Worker

    class NoPortScheduler(Scheduler):
        def start_http_server(self, *_: object, default_port: int = 0) -> None:
            """Open no port."""

    class NoPortWorker(Worker):
        def start_http_server(self, *_: object) -> None:
            """Open no port."""

    how = campaign.how
    scheduler = {"cls": NoPortScheduler, "options": {"protocol": "inproc://", "dashboard": False}}
    worker = {"nthreads": how.threads_per_rank * how.ranks, "memory_limit": 0, "protocol": "inproc://"}
    with (
        opened(
            lambda: SpecCluster(scheduler=scheduler, workers={0: {"cls": NoPortWorker, "options": worker}}),
            campaign,
            run,
        ) as cluster,
        opened(lambda: Client(cluster, timeout=JOIN_S), campaign, run) as client,
    ):
        yield client


@contextmanager
def _processes(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client whose workers are processes on this machine; they listen on the loopback interface, with TLS."""
    import dask
    from distributed import Client, LocalCluster

    how, security = campaign.how, security_of(certificate())
    own = {
        # read when Dask is imported in a new process, before any other setting gets there
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "warning",
        # else a nanny that starts its worker again at that moment is closed for ever, and the client waits
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    with (
        dask.config.set(own),
        opened(
            lambda: LocalCluster(
                n_workers=how.dask.workers,
                threads_per_worker=how.dask.threads,
                host="127.0.0.1",
                security=security,
                memory_limit=None,
                silence_logs=False,
                dashboard_address=None,
                worker_dashboard_address=None,
                scheduler_kwargs=NO_HTTP,
                death_timeout=JOIN_S,
            ),
            campaign,
            run,
        ) as cluster,
        opened(lambda: Client(cluster, timeout=JOIN_S), campaign, run) as client,
    ):
        yield client
