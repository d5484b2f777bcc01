"""embed: the set-up of one rank, which is one process with one device; then pipeline.py does the work.

The fork server of a parent (forkserver.py) starts it. Environment variables say which rank it is, and how it reaches
its parent and the other ranks (protocol.py).
"""

import faulthandler
import logging
import os
import resource
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from embedcube.backbones.weights import parse_weights
from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PartWriter
from embedcube.campaign.plan import Plan, read_plan, read_shards
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import EmbedcubeError, StartAgain, WorkError
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.kernel.versions import versions_here
from embedcube.machine import bind_near_gpu, cores, read_bytes
from embedcube.sources.reader import RasterReader
from embedcube.workers.broadcast import broadcast_files
from embedcube.workers.channel import Channel, Lost
from embedcube.workers.crashes import Held
from embedcube.workers.energy import EnergyMeter
from embedcube.workers.left import read_left
from embedcube.workers.pipeline import Pipeline
from embedcube.workers.protocol import (
    COUNT,
    END_TIME,
    EXIT_DONE,
    EXIT_FAILED,
    HOLD,
    REPORT,
    STACKS_SIGNAL,
    STOP_SIGNALS,
    Place,
)
from embedcube.workers.queue import RankDraws
from embedcube.workers.recorder import Recorder
from embedcube.workers.stopping import Guard, Stop

log = logging.getLogger(__name__)

_REPORT_S = 5.0
"""for the parent to take the last words of a rank"""


def run_rank(campaign: Campaign, run: RunDir, task: int, attempt: str, place: Place, me: "_Started") -> int:
    """Embed shards until none is left or the rank is to stop; returns the exit code."""
    # the first record says what the start has read, weights among it
    how, read_so_far = campaign.how, read_bytes()
    if how.device == "cuda":
        bind_near_gpu(place.local_rank, how.ranks)
    plan = read_plan(campaign, run)
    device = torch.device("cuda", place.local_rank) if how.device == "cuda" else torch.device(how.device)
    exact_arithmetic(how.threads_per_rank)
    _allow_most_open_files()
    _refuse_other_versions(plan, device)
    contexts = _load_contexts(campaign, run, plan, me.parent, place, device)
    left = read_left(run.left(task, attempt))
    history = left.history
    end_time_s = float(os.environ.get(END_TIME) or "inf")
    groups = read_shards(run, plan, task)
    draws = RankDraws(groups, left.recipes, history, _AskedParent(me.parent), place, how.ranks, me.stop, end_time_s)
    part = PartWriter(run.part(task, attempt, place.rank))
    recorder = Recorder(
        part,
        EnergyMeter(device),
        read_so_far,
        history.refused,
        device=plan.versions["device"],
        attempt=attempt,
        rank=place.rank,
    )
    scenes = scenes_as_planned(campaign, run, plan)
    reader = RasterReader(how.threads_per_rank, attempts=how.read_attempts)
    recipes = PlannedRecipes.here(campaign, plan, scenes)
    pipeline = Pipeline(contexts, scenes, history.refused, reader, recorder, recipes)
    busy_core = device.type == "cpu" and how.threads_per_rank == 1 and how.ranks >= cores()
    me.guard.working(draws.finish_s)
    # neither threads nor files are closed at the end: the process ends, and one that hangs would keep it
    pipeline.run(draws, busy_core=busy_core)
    if me.stop.is_set():
        raise StartAgain(me.stop.reason)
    if pipeline.undone:
        raise StartAgain(f"{pipeline.undone} shards could not be read, the last: {pipeline.last_error}")
    return EXIT_DONE


@dataclass(frozen=True, kw_only=True)
class _Started:
    """What a rank has from its first moment on."""

    parent: Channel
    stop: Stop
    guard: Guard

    @classmethod
    def at(cls, place: Place) -> "_Started":
        """Take over the rank's end of the socket pair.

        Raises:
            StartAgain: the parent is gone already.
        """
        try:
            # no program that the rank starts may inherit it
            os.set_inheritable(place.parent, False)
            parent = Channel(Connection(place.parent))
        except OSError as error:
            raise StartAgain(f"the parent of the rank is gone: {error}") from None
        if parent.gone():
            raise StartAgain("the parent of the rank is gone")
        stop = Stop()
        guard = Guard(place.parent, stop)
        # the fork server holds them back
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return cls(parent=parent, stop=stop, guard=guard)


class _AskedParent:
    """The parent, as drawing asks it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def count(self, counter: str) -> int:
        number: int = self._channel.ask(COUNT, counter)
        return number

    def hold(self, held: Sequence[Held], finish_s: float) -> None:
        self._channel.ask(HOLD, [asdict(one) for one in held], finish_s)


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
    parent: Channel,
    place: Place,
    device: torch.device,
) -> dict[str, LayerContext]:
    """Load each layer's context; the bytes of its weights are freed before the next, to halve the peak memory."""
    files = broadcast_files(run, plan, parent, place, device)
    contexts = {}
    for name, layer in plan.layers.items():
        data, program = files.pop(name)
        weights = parse_weights(data, campaign, name, str(run.weights(name)))
        contexts[name] = load_context(
            campaign, name, list(layer.zones), weights, device, layer.batch, program, layer.samples
        )
    return contexts


def main(arguments: list[str]) -> int:
    """One rank: `arguments` are run folder, task and attempt.

    The exit code says done (0), failed (1), wrong request (2) or start again (75).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    # GDAL's own complaints come back as the reason of a quarantine: one line is enough
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    # a hanging job on a cluster cannot be reached with a debugger
    faulthandler.register(STACKS_SIGNAL)
    run, place = RunDir(Path(arguments[0])), Place.from_variables(os.environ)
    me = None
    try:
        me = _Started.at(place)
        campaign = load_campaign(run.campaign)
        return run_rank(campaign, run, int(arguments[1]), arguments[2], place, me)
    except EmbedcubeError as error:
        return _ended_early(str(error), error.exit_code, me)
    except OSError as error:
        return _ended_early(str(error), EXIT_FAILED, me)
    except Exception as error:
        log.exception("%s", "this is a bug in embedcube or in a plugin")
        return _ended_early(f"{type(error).__name__}: {error}", EXIT_FAILED, me)


def _ended_early(why: str, code: int, me: _Started | None) -> int:
    """Write why the rank ends to its log, and say it to its parent: a full disk may take no more of the log."""
    log.error("%s", why)
    if me is not None:
        with suppress(Lost):
            me.parent.ask(REPORT, why, timeout_s=_REPORT_S)
    return code
