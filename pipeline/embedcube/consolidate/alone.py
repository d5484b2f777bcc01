"""What keeps Dask alone and quiet: certificates of the run, no HTTP, logs in a file, an end to every wait.

Dask loads this module in each of its processes (`dask_setup`), as `settings` says.
"""

import logging
import os
import shlex
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.quiet import LogFile, redirect
from embedcube.consolidate.unfinished import ABANDONED_S
from embedcube.errors import StartAgain

JOIN_S = 300.0
"""Seconds that processes of one consolidation wait for each other at the start."""

NO_HTTP = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""Options of schedulers and workers: the port that Dask opens all the same is not seen from other machines, has no
routes, and is closed at once (`dask_setup`)."""

_LINGER_S = 10.0
"""Seconds after which a scheduler without a client ends; a client that leaves in order ends it before."""

_LOGS, _ENDS = "embedcube.logs", "embedcube.ends-with-client"
"""Our own keys of Dask's configuration: the folder of logs, and whether the scheduler ends with its client."""


def settings(campaign: Campaign, run: RunDir) -> dict[str, Any]:
    """The configuration of Dask in all processes of a consolidation."""
    return {
        "distributed.comm.require-encryption": True,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.scheduler.preload": [__name__],
        "distributed.worker.preload": [__name__],
        "distributed.nanny.preload": [__name__],
        "distributed.scheduler.no-workers-timeout": f"{patience_s(campaign):.0f}s",
        "logging.distributed": "warning",
        _LOGS: str(run.logs.absolute()),
        _ENDS: campaign.how.dask.kind in ("slurm_runner", "mpi"),
    }


def patience_s(campaign: Campaign) -> float:
    """Seconds without any worker after which a consolidation ends."""
    return campaign.how.dask.wait_min * 60.0 if campaign.how.dask.kind == "slurm_cluster" else JOIN_S


def exports(settings: dict[str, Any]) -> list[str]:
    """Lines of a batch script that hand `settings` to a Dask process."""
    names = {key: key.upper().replace(".", "__").replace("-", "_") for key in settings}
    return [f"export DASK_{names[key]}={shlex.quote(repr(value))}" for key, value in settings.items()]


# --- certificates ---------------------------------------------------------------------------------


def certificate() -> str:
    """A new certificate with its key (PEM): who holds it can connect to the processes of this start, nobody else."""
    from distributed import Security

    made = Security.temporary()
    return f"{made.tls_client_cert}{made.tls_client_key}"


def security_of(pem: str | Path) -> Any:
    """The `distributed.Security` of a certificate, held in memory, or of the path of a file with it."""
    from distributed import Security

    roles = [f"tls_{role}_{kind}" for role in ("client", "scheduler", "worker") for kind in ("cert", "key")]
    return Security(require_encryption=True, **dict.fromkeys(["tls_ca_file", *roles], str(pem)))


def tls_settings(pem: str) -> dict[str, Any]:
    """Dask's configuration to use a certificate (PEM, held in memory), for processes that take no `Security`."""
    roles = [f"{role}.{kind}" for role in ("client", "scheduler", "worker") for kind in ("cert", "key")]
    return {f"distributed.comm.tls.{key}": pem for key in ("ca-file", *roles)}


def private_folder(run: RunDir, start: str) -> Path:
    """A new folder that only this user can read, where processes on several nodes see it; the caller removes it.

    Folders that killed starts have left are removed after a day: a younger one may be that of a consolidation that
    runs now. One of the same name is removed at once, as no two starts that run have the same name.
    """
    (folder,) = run.dask_secrets(start)
    for left in run.dask_secrets():
        with suppress(FileNotFoundError):
            if left == folder or time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    run.job_logs.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    return folder


def hand_over(pem: str, folder: Path) -> Path:
    """Write a certificate into a private folder, whole, readable for this user only; returns the path."""
    path = folder / "certificate.pem"
    with (
        replacing(path) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
    ):
        file.write(pem.encode())
    return path


def receive(folder: Path) -> str:
    """The certificate that another process of this start has written, or is about to write.

    Raises:
        StartAgain: it has not come in time, or is not a file of this user that nobody else can read.
    """
    path, end = folder / "certificate.pem", time.monotonic() + JOIN_S
    while True:
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                    raise StartAgain(
                        f"{path}: owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}; a certificate belongs to "
                        f"user {os.geteuid()} alone: look who else writes to {folder.parent}, then start again"
                    )
                return file.read().decode()
        except FileNotFoundError:
            if time.monotonic() > end:
                raise StartAgain(
                    f"{path}: the process of the scheduler has not written it within {JOIN_S:.0f} s; its output "
                    "says why, then start the same command again"
                ) from None
        time.sleep(0.1)


# --- what Dask calls ------------------------------------------------------------------------------


def dask_setup(server: Any) -> None:
    """Close the HTTP port of a process of Dask, send its logs to a file, and let a scheduler end with its client."""
    import dask
    from distributed import Scheduler

    if (http := getattr(server, "http_server", None)) is not None:
        http.stop()
    if not any(isinstance(handler, LogFile) for handler in logging.getLogger("distributed").handlers):
        redirect(Path(dask.config.get(_LOGS)))
    if isinstance(server, Scheduler) and dask.config.get(_ENDS):
        _end_with_client(server)


def _end_with_client(scheduler: Any) -> None:
    """Close the scheduler, and with it its workers, when its client is gone or none has come."""
    from distributed import SchedulerPlugin

    def end() -> None:
        if not any(client != "fire-and-forget" for client in scheduler.clients):
            scheduler.loop.add_callback(scheduler.close, reason="no client")

    class EndsWithClient(SchedulerPlugin):
        def remove_client(self, scheduler: Any, client: str) -> None:
            scheduler.loop.call_later(_LINGER_S, end)

    scheduler.add_plugin(EndsWithClient())
    scheduler.loop.call_later(JOIN_S, end)
