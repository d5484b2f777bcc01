"""Dask workers on nodes: jobs of Slurm, or the processes of one job step that srun or MPI has started."""

import asyncio
import atexit
import ipaddress
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site, load_site
from embedcube.consolidate.alone import (
    JOIN_S,
    NO_HTTP,
    certificate,
    exports,
    hand_over,
    patience_s,
    private_folder,
    receive,
    security_of,
    settings,
    tls_settings,
)
from embedcube.consolidate.endings import nobody, opened, within
from embedcube.errors import RequestError, StartAgain
from embedcube.jobs.slurm import forget_own_job, setup_lines

_LATE_S = 60.0
"""Seconds that a job step waits for its last workers, when there is one already."""

_MACHINE = Path("/proc/sys/kernel/random/boot_id")
"""A file that says which machine this is, also in containers."""

_LOOPBACK = (
    "Dask listens on {host}, which no other node can reach: the name of its node has no other address there; write "
    "interface into the site file"
)

_MOST_BYTES = 2048
"""of what each process says by MPI"""


@contextmanager
def slurm_cluster(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client whose workers are Slurm jobs, as many as there is work for. Needs `sbatch`, so not in a container."""
    from distributed import Client

    site = load_site(campaign)
    forget_own_job()
    folder = private_folder(run, f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        # as a file: dask-jobqueue would write files of its own, and complain that they are gone in the end
        security = security_of(hand_over(certificate(), folder))
        with (
            opened(lambda: _job_cluster(campaign, site, run, security), campaign, run) as cluster,
            opened(lambda: Client(cluster, timeout=JOIN_S), campaign, run) as client,
        ):
            _first_worker(cluster, campaign, run)
            cluster.adapt(minimum_jobs=1, maximum_jobs=-(-campaign.how.dask.workers // workers_per_job(campaign, site)))
            yield client
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def workers_per_job(campaign: Campaign, site: Site) -> int:
    """Workers of one job: a whole node is filled, where jobs get whole nodes."""
    return max(1, site.for_consolidation.cpus_per_node // campaign.how.dask.threads) if site.exclusive else 1


def _job_cluster(campaign: Campaign, named: Site, run: RunDir, security: Any) -> Any:
    how, site = campaign.how, named.for_consolidation
    workers = workers_per_job(campaign, named)
    cores = workers * how.dask.threads
    mem_gb = site.mem_gb_per_node * (1 if site.exclusive else cores / site.cpus_per_node)
    options = [f"--constraint={site.constraint}"] if site.constraint else []
    host = "import socket; print(socket.gethostbyname(socket.gethostname()))"
    own = _address(named.interface)
    return _job_queue().SLURMCluster(
        queue=site.partition,
        account=how.account or site.account,
        cores=cores,
        processes=workers,
        memory=f"{mem_gb:.1f}GB",
        walltime=f"{site.time_min if named.cpu_nodes else how.time_min or site.time_min}",
        interface=site.interface,
        # all of a whole node: its memory too, whatever the site file says
        job_directives_skip=["--mem"] if site.exclusive else [],
        job_extra_directives=options + (["--exclusive", "--mem=0"] if site.exclusive else []),
        job_script_prologue=[
            *setup_lines(site),
            *exports(settings(campaign, run)),
            *([] if site.interface else [f"host=$({shlex.join([sys.executable, '-c', host])})"]),
            _refusing_lines(own),
        ],
        worker_extra_args=["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        + ([] if site.interface else ["--host", "$host"]),
        log_directory=str(run.job_logs),
        python=sys.executable,
        security=security,
        silence_logs=False,
        scheduler_options=NO_HTTP | ({} if site.interface else {"host": own}),
    )


def _refusing_lines(own: str) -> str:
    """What a job does before a worker: it ends where scheduler and worker could not reach each other."""
    why = shlex.quote(_LOOPBACK.format(host=f"127.*, the scheduler on {own}"))
    return f'case "$(cat {_MACHINE}) {own} $host" in {_machine()}\\ *) ;; *\\ 127.*) echo {why} >&2; exit 1;; esac'


def _first_worker(cluster: Any, campaign: Campaign, run: RunDir) -> None:
    """Wait until the first job has started a worker.

    Raises:
        RequestError: Slurm refuses the job.
        StartAgain: no job has started in time.
    """

    async def submitted() -> None:
        await cluster

    # not `scale`: it submits in the background, and nobody hears that Slurm refuses
    cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(submitted, callback_timeout=JOIN_S)
        cluster.wait_for_workers(1, timeout=patience_s(campaign))
    except TimeoutError:
        raise StartAgain(nobody(campaign, run, _queue_says(cluster))) from None
    except RuntimeError as error:
        answer = "; ".join(line for line in str(error).splitlines() if "error:" in line.lower())
        answer = answer or " ".join(str(error).split())
        raise RequestError(
            f"the job of a Dask worker was refused: {answer}; correct partition, account and limits in "
            f"{campaign.how.site}, or how.dask"
        ) from None


def _queue_says(cluster: Any) -> str:
    """State of each job of the cluster and the reason that Slurm gives: " (12 PENDING Priority)"."""
    jobs = ",".join(str(job.job_id) for job in cluster.workers.values() if job.job_id)
    query = ["squeue", "--noheader", f"--jobs={jobs}", "--format=%i %T %r"]
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout.split("\n")
        return f" ({', '.join(filter(None, said)) or 'its jobs have left the queue'})"
    return ""


@contextmanager
def slurm_runner(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client whose scheduler and workers are the other processes of the job step."""
    from distributed import Client

    processes = int(os.environ.get("SLURM_NTASKS", "1"))
    _refuse_small_world(processes, campaign)
    _address(load_site(campaign).interface)  # in all processes before one waits for another
    # with the number of restarts: a requeued job keeps its id, and would read the address of the dead scheduler
    names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
    start, process = "-".join(os.environ.get(name) or "0" for name in names), os.environ["SLURM_PROCID"]
    if process == "0":
        folder = private_folder(run, start)
        pem = certificate()
        machine = _machine()
        (folder / "machine").write_text(machine)
        hand_over(pem, folder)
    else:
        (folder,) = run.dask_secrets(start)
        pem = receive(folder)
        machine = (folder / "machine").read_text()
    if process != "1":
        _end_by_signal(folder if process == "0" else None)
    try:
        with (
            opened(lambda: _runner(campaign, security_of(pem), folder, machine), campaign, run) as runner,
            # only the client comes here
            opened(lambda: Client(runner, timeout=JOIN_S), campaign, run) as client,
        ):
            _joined(client, processes - 2, campaign, run)
            shutil.rmtree(folder, ignore_errors=True)
            yield client
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_by_signal(folder: Path | None) -> None:
    """Let the scheduler or a worker end at once by a signal; dask-jobqueue sends SIGINT when the work is done."""

    def end(number: int, _: object) -> None:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0 if number == signal.SIGINT else StartAgain.exit_code)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, end)


def _runner(campaign: Campaign, security: Any, folder: Path, machine: str) -> Any:
    """A SLURMRunner with TLS, whose waits have an end. In the scheduler and in workers it does not return.

    `machine` is that of the scheduler.
    """
    from distributed import rpc

    interface = load_site(campaign).interface
    own = _address(interface)
    elsewhere = machine != _machine()

    class Runner(_job_queue().SLURMRunner):  # type: ignore[misc]
        async def get_scheduler_address(self) -> str:
            end = time.monotonic() + JOIN_S
            while time.monotonic() < end:
                with suppress(OSError, ValueError, KeyError):  # not there, or not whole yet
                    address = str(json.loads(self.scheduler_file.read_text())["address"])
                    if elsewhere:
                        _refuse_loopback(urlsplit(address).hostname or "")
                    return address
                await asyncio.sleep(0.2)
            raise StartAgain(
                f"{self.scheduler_file}: the scheduler has not written its address within {JOIN_S:.0f} s; its output "
                "says why, then start the same command again"
            )

        async def before_worker_start(self) -> None:
            if elsewhere:
                _refuse_loopback(own)
            del self.worker_options["scheduler_file"]
            self.worker_options["scheduler_ip"] = await self.get_scheduler_address()

        async def before_client_start(self) -> None:
            self.security = security
            self.scheduler_comm = rpc(self.scheduler_address, connection_args=security.get_connection_args("client"))

    options = NO_HTTP | {"security": security, "protocol": "tls://"}
    options |= {"interface": interface} if interface else {"host": own}
    return Runner(
        scheduler_file=str(folder / "scheduler.json").replace("{", "{{").replace("}", "}}"),
        scheduler_options=dict(options),
        worker_options=options | {"nthreads": campaign.how.dask.threads, "memory_limit": 0, "death_timeout": JOIN_S},
    )


def _joined(client: Any, workers: int, campaign: Campaign, run: RunDir) -> None:
    """Wait for the workers of a job step, which all start together; late ones are not waited for longer than one.

    Raises:
        StartAgain: none has come in time.
    """
    try:
        client.wait_for_workers(1, timeout=JOIN_S)
    except TimeoutError:
        raise StartAgain(nobody(campaign, run)) from None
    with suppress(TimeoutError):
        client.wait_for_workers(workers, timeout=_LATE_S)


@contextmanager
def mpi(campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client whose scheduler and workers are the other processes that MPI has started."""
    import dask
    import dask_mpi
    from dask_mpi.execute import send_close_signal
    from distributed import Client
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    _refuse_small_world(world.Get_size(), campaign)
    interface = _agreed_interface(world, load_site(campaign).interface if campaign.how.site else None)
    pem = from_rank_0(world, certificate() if world.Get_rank() == 0 else "")
    with dask.config.set(tls_settings(pem)):
        # ends scheduler and workers by SystemExit: all processes must leave MPI together, when the interpreter ends
        dask_mpi.initialize(
            interface=interface,
            protocol="tls://",
            nthreads=campaign.how.dask.threads,
            memory_limit=0,
            worker_options=NO_HTTP | {"death_timeout": JOIN_S},
            dashboard=NO_HTTP["dashboard"],
            dashboard_address=NO_HTTP["dashboard_address"],
        )
        atexit.unregister(send_close_signal)  # it would connect once more, and has no end
        with opened(lambda: Client(timeout=JOIN_S), campaign, run) as client:
            try:
                _joined(client, world.Get_size() - 2, campaign, run)
                yield client
            finally:
                within(client.shutdown)


def _job_queue() -> Any:
    """The module `dask_jobqueue.slurm`. When it is imported it sets a handler of Ctrl-C; ours is set again."""
    before = signal.getsignal(signal.SIGINT)
    import dask_jobqueue.slurm

    signal.signal(signal.SIGINT, before)
    return dask_jobqueue.slurm


def _refuse_small_world(processes: int, campaign: Campaign) -> None:
    if processes < 3:
        raise RequestError(
            f"how.dask.kind {campaign.how.dask.kind}: {processes} processes, a scheduler, a client and a worker are "
            "three; start `embedcube consolidate` by srun or mpiexec with more"
        )


def from_rank_0(world: Any, text: str) -> str:
    """The text of process 0 of an MPI communicator, in all of its processes."""
    # bytes: the broadcast of an object would unpickle it
    size = bytearray(len(text.encode()).to_bytes(8, "big"))
    world.Bcast(size)
    data = bytearray(text.encode()).ljust(int.from_bytes(size, "big"))
    world.Bcast(data)
    return data.decode()


def _agreed_interface(world: Any, interface: str | None) -> str:
    """The interface on which this process listens: that of the site file, or the one with this machine's address.

    Raises:
        RequestError: in all processes of MPI, if it is wrong for one of them: one that failed alone would let the
            others wait.
    """
    own = refused = ""
    try:
        interface = interface or _own_interface()
        own = _address(interface)
    except RequestError as error:
        refused = str(error)
    said = bytearray("\t".join((_machine(), own, refused)).encode()[:_MOST_BYTES]).ljust(_MOST_BYTES)
    heard = bytearray(_MOST_BYTES * world.Get_size())
    world.Allgather(said, heard)
    texts = [heard[at : at + _MOST_BYTES].decode(errors="replace") for at in range(0, len(heard), _MOST_BYTES)]
    machines, addresses, refusals = zip(*(text.split("\t", 2) for text in texts), strict=True)
    for refusal in filter(str.strip, refusals):
        raise RequestError(refusal.strip())
    if len(set(machines)) > 1:
        for address in addresses:
            _refuse_loopback(address)
    assert interface
    return interface


def _machine() -> str:
    return _MACHINE.read_text().strip()


def _refuse_loopback(host: str) -> None:
    if ipaddress.ip_address(host).is_loopback:
        raise RequestError(_LOOPBACK.format(host=host))


def _address(interface: str | None) -> str:
    """The address of an interface; of this machine's name, where the site file names no interface."""
    from distributed.utils import get_ip_interface

    if interface:
        try:
            return str(get_ip_interface(interface))
        except ValueError as error:
            raise RequestError(
                f"interface {interface} in the site file: {socket.gethostname()} has no address on it ({error}); write "
                "the name of the fast network's interface"
            ) from None
    return _own_address()


def _own_address() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError as error:
        raise RequestError(
            f"{socket.gethostname()}: this machine's name has no address ({error}); write the interface of the network "
            "into the site file (interface)"
        ) from None


def _own_interface() -> str:
    """The interface with this machine's own address; the loopback interface where none has it."""
    from distributed.utils import get_ip_interface

    own = _own_address()
    for _, name in socket.if_nameindex():
        with suppress(ValueError):  # it has no address
            if get_ip_interface(name) == own:
                return name
    return "lo"
