"""embed: the set-up of one rank, which is one process with one device; then pipeline.py does the work.

`python -m embedcube.workers.rank RUN TASK ATTEMPT` is started by a parent (task.py), which says in environment
variables which rank it is and where the store is (protocol.py).
"""

import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
import threading
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from embedcube.backbones.weights import parse_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PartWriter, recorded_recipes
from embedcube.campaign.plan import Plan, read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import EmbedcubeError, WorkError
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.kernel.versions import versions_here
from embedcube.machine import bind_near_gpu, cores, read_bytes
from embedcube.sources.reader import RasterReader
from embedcube.workers.broadcast import broadcast_files
from embedcube.workers.crashes import CrashHistory
from embedcube.workers.energy import EnergyMeter
from embedcube.workers.pipeline import Pipeline
from embedcube.workers.protocol import (
    END_TIME,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_START_AGAIN,
    STACKS_SIGNAL,
    START_TIMEOUT_S,
    STOP_SIGNALS,
    Place,
)
from embedcube.workers.queue import RankDraws
from embedcube.workers.recorder import Recorder

log = logging.getLogger(__name__)


def run_rank(campaign: Campaign, run: RunDir, task: int, attempt: str) -> int:
    """Embed shards until none is left or a signal comes; returns the exit code."""
    # the first record says what the start has read, weights among it
    place, how, read_so_far = Place.from_variables(os.environ), campaign.how, read_bytes()
    store = distributed.TCPStore(place.host, place.port, is_master=False, timeout=timedelta(seconds=START_TIMEOUT_S))
    stop = _stop_on_signals()
    if how.device == "cuda":
        bind_near_gpu(place.local_rank, how.ranks)
    plan = read_plan(campaign, run)
    device = torch.device("cuda", place.local_rank) if how.device == "cuda" else torch.device(how.device)
    exact_arithmetic(how.threads_per_rank)
    _allow_most_open_files()
    _refuse_other_versions(plan, device)
    contexts = _load_contexts(campaign, run, plan, store, place, device)
    done = recorded_recipes(run, whole=how.retry_quarantined)
    groups = read_shards(run, plan, task)
    undone = {shard.recipe for group in groups for shard in group} - done
    history = CrashHistory.read(run, undone, retry_quarantined=how.retry_quarantined)
    draws = RankDraws(groups, done, history, store, place, how.ranks, stop, float(os.environ.get(END_TIME) or "inf"))
    part = PartWriter(run.part(task, attempt, place.rank))
    recorder = Recorder(
        part, EnergyMeter(device), read_so_far, device=plan.versions["device"], attempt=attempt, rank=place.rank
    )
    scenes = read_inventory(campaign, run)
    reader = RasterReader(how.threads_per_rank, attempts=how.read_attempts)
    pipeline = Pipeline(contexts, scenes, history.refused, reader, recorder)
    try:
        busy_core = device.type == "cpu" and how.threads_per_rank == 1 and how.ranks >= cores()
        pipeline.run(draws, busy_core=busy_core)
    finally:
        reader.close()
    return EXIT_START_AGAIN if stop.is_set() or pipeline.undone else EXIT_DONE


def _stop_on_signals() -> threading.Event:
    """An event that any of STOP_SIGNALS sets."""
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    return stop


def _allow_most_open_files() -> None:
    """Raise this process's limit of open files as far as the system lets it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _refuse_other_versions(plan: Plan, device: torch.device) -> None:
    """Raise a WorkError when this process would compute other bytes than the plan's."""
    versions = versions_here(plan, device)
    for name, planned in plan.versions.items():
        if versions[name] != planned:
            raise WorkError(
                f"{socket.gethostname()} has {name} {versions[name]}, the plan was made for {planned}: the bytes "
                "would differ; install those versions there, or run `embedcube plan` again"
            )


def _load_contexts(
    campaign: Campaign,
    run: RunDir,
    plan: Plan,
    store: distributed.TCPStore,
    place: Place,
    device: torch.device,
) -> dict[str, LayerContext]:
    """Load each layer's context; the bytes of its weights are freed before the next, to halve the peak memory."""
    files = broadcast_files(run, plan, store, place, device)
    contexts = {}
    for name, layer in plan.layers.items():
        data, program = files.pop(name)
        weights = parse_weights(data, campaign, name, str(run.weights(name)))
        contexts[name] = load_context(campaign, name, list(layer.zones), weights, device, layer.batch, program)
    return contexts


def main(arguments: list[str]) -> int:
    """One rank; the exit code says done (0), failed (1), wrong request (2) or start again (75)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    # GDAL's own complaints come back as the reason of a quarantine: one line is enough
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    # a hanging job on a cluster cannot be reached with a debugger
    faulthandler.register(STACKS_SIGNAL)
    run = RunDir(Path(arguments[0]))
    try:
        campaign = load_campaign(run.campaign)
        return run_rank(campaign, run, int(arguments[1]), arguments[2])
    except EmbedcubeError as error:
        log.error("%s", error)
        return error.exit_code
    except OSError as error:
        log.error("%s", error)
        return EXIT_FAILED
    except Exception as error:
        log.exception("%s", "this is a bug in embedcube or in a plugin")
        log.error("%s: %s", type(error).__name__, error)
        return EXIT_FAILED


if __name__ == "__main__":
    # a rank that a thread of a library keeps from ending would hold its whole allocation
    code = main(sys.argv[1:])
    logging.shutdown()
    os._exit(code)
