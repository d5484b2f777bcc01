"""How work with Dask ends: results one by one, losses in words, and closings that take a bounded time."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.alone import patience_s
from embedcube.consolidate.assemble import Brought
from embedcube.consolidate.quiet import deaths
from embedcube.consolidate.unfinished import NotEnough
from embedcube.errors import EmbedcubeError, StartAgain

log = logging.getLogger("distributed.embedcube")

_CLOSE_S = 60.0
"""Seconds that the end of a client or a cluster may take; the work is done by then."""


def results(futures: Sequence[Any], client: Any, campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """The result of each future, as they finish.

    Raises:
        StartAgain: workers or the scheduler were lost.
        NotEnough: workers were lost and nothing was made before: starting again would do the same.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

    done = made = 0
    try:
        # not `with_results`: that never returns if the scheduler is lost while the last results are fetched
        for batch in as_completed(futures).batches():
            for result in client.gather(list(batch)):
                yield result
                done += 1
                made += isinstance(result, Brought) and result.new
            for future in batch:
                future.release()  # else the work is done again if the worker that holds the result dies
    except KilledWorker as error:
        again = StartAgain if made else NotEnough
        raise again(f"{_lost(error.allowed_failures + 1, campaign)} {where_logs_are(campaign, run)}") from None
    except (NoWorkerError, NoValidWorkerError):
        raise StartAgain(nobody(campaign, run)) from None
    except (CancelledError, OSError):
        raise StartAgain(
            f"the Dask scheduler was lost after {done} of {len(futures)} tasks: start the same command again, it goes "
            f"on from there. {where_logs_are(campaign, run)}"
        ) from None


def in_words(failure: Exception, campaign: Campaign) -> Exception:
    """The failure of a task, as the error to raise."""
    if isinstance(failure, MemoryError):
        return NotEnough(f"a Dask worker had no memory left ({failure}): {_less_memory(campaign)}")
    return failure


def _lost(times: int, campaign: Campaign) -> str:
    said = deaths()
    killed = [line for line in said if line.endswith("killed by signal 9")]
    why = f", the last one: {said[-1]}" if said else ""
    memory = (
        " Signal 9 is what the kernel sends when memory runs out (`dmesg` says so): " + _less_memory(campaign) + "."
        if killed or not said
        else ""
    )
    return f"Dask workers died {times} times at the same object{why}.{memory}"


def _less_memory(campaign: Campaign) -> str:
    how = campaign.how
    at_once = {"how.threads": how.threads_per_rank, "how.ranks": how.ranks}
    if how.dask.kind != "threads":
        at_once = {"how.dask.workers": how.dask.workers, "how.dask.threads": how.dask.threads}
    many = [f"{key} {count}" for key, count in at_once.items() if count > 1]
    fewer = f"write fewer than {' or '.join(many)}, or " if many else ""
    return f"{fewer}give the job more memory; then start again, what is made stays"


def nobody(campaign: Campaign, run: RunDir, reason: str = "") -> str:
    """The message that no worker came; `reason` is what the queue says."""
    patience_min = patience_s(campaign) / 60
    if campaign.how.dask.kind != "slurm_cluster":
        again = "start the same command again"
        return f"no Dask worker for {patience_min:.0f} minutes: {again}. {where_logs_are(campaign, run)}"
    return (
        f"no Dask worker for {patience_min:.0f} minutes (how.dask.wait_min){reason}: `squeue --me` says what its jobs "
        f"wait for; give them longer, or write how.dask.kind: processes. {where_logs_are(campaign, run)}"
    )


def where_logs_are(campaign: Campaign, run: RunDir) -> str:
    """The sentence that names the logs of workers."""
    kind = campaign.how.dask.kind
    place = f"{run.job_logs}/dask-worker-*.err" if kind == "slurm_cluster" else f"{run.dask_log('*')}"
    job = " and the output of the job" if kind in ("slurm_runner", "mpi") else ""
    return f"Logs of workers: {place}{job}"


@contextmanager
def opened(make: Callable[[], Any], campaign: Campaign, run: RunDir) -> Iterator[Any]:
    """A client or a cluster, closed after the block, in a bounded time and without noise."""
    try:
        made = make()
    except EmbedcubeError:
        raise
    except (OSError, RuntimeError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise StartAgain(
            f"Dask did not start: {words}; start the same command again. {where_logs_are(campaign, run)}"
        ) from None
    try:
        yield made
    finally:
        within(made.close)


def within(end: Callable[[], object]) -> None:
    """Call `end`, and go on after a minute even if it does not return. What it raises is in Dask's log."""

    def attempt() -> None:
        try:
            end()
        except Exception:
            log.warning("not closed", exc_info=True)

    thread = threading.Thread(target=attempt, name="end of Dask", daemon=True)
    thread.start()
    thread.join(_CLOSE_S)
