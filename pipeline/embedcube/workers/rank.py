"""embed: one rank, one process with one device. It draws groups of shards, reads, embeds and writes its own part.

    reading thread -> device thread -> writing (main) thread, each one shard ahead of the next but near the end;
    all in turn, in one thread, where a core that computes all the time has nothing to wait for

`python -m embedcube.workers.rank RUN TASK ATTEMPT` finds the other ranks and the counter by RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT, as torch.distributed does.
"""

import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import distributed

import embedcube
from embedcube.backbones.weights import parse_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PartWriter, Quarantined, Record, recorded_recipes
from embedcube.campaign.plan import Plan, Shard, read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.cube.arrays import ArraySpec, ShardEncoder, array_specs
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.errors import EmbedcubeError, StartAgain, WorkError
from embedcube.kernel.device import OnDevice, exact_arithmetic
from embedcube.kernel.embed import Cells, copied, embed_sample
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.kernel.memory import SAMPLES_IN_FLIGHT
from embedcube.kernel.sample import Sample, read_sample
from embedcube.kernel.versions import versions_here
from embedcube.machine import cores, read_bytes
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.workers.broadcast import broadcast_files
from embedcube.workers.crashes import blame, crashes_by_shard
from embedcube.workers.energy import EnergyMeter
from embedcube.workers.prefetch import prefetched
from embedcube.workers.protocol import END_TIME, IN_HAND, MEETING_S, STOP_SIGNALS
from embedcube.workers.queue import ShardQueue

log = logging.getLogger(__name__)

_BUSY = 0.9
"""A core that computes for this share of the wall has less to wait for than threads on it cost (docs/adr/0010)."""

_PATIENCE_S = 1.0
"""What a rank may wait before its share counts: the first files are opened, and a small shard is all `fsync`."""


@dataclass(kw_only=True)
class _InFlight:
    """One shard on its way through the pipeline."""

    shard: Shard
    scenes: list[Scene]
    started: str
    sample: Sample | None = None
    pixels: OnDevice | None = None
    cells: Cells | None = None
    timings: Timings = field(default_factory=Timings)
    begun_s: float = field(default_factory=time.perf_counter)


class _Rank:
    """One process, one device: draws, reads, embeds, writes."""

    def __init__(self, campaign: Campaign, run: RunDir, task: int, attempt: str) -> None:
        self._campaign, self._run, self._task, self._attempt = campaign, run, task, attempt
        self._number, self._world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._store = distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=MEETING_S),
        )
        self._stop = threading.Event()
        self._undone = 0
        self._ends = float(os.environ.get(END_TIME) or "inf")
        self._longest_s = 0.0
        self._device_free_s = self._device_held_s = 0.0
        self._read_bytes = read_bytes()
        self._drawn_last: deque[str] = deque(maxlen=2 * SAMPLES_IN_FLIGHT)

    def main(self) -> int:
        """Embed until nothing is left or a signal comes; returns the exit code."""
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: self._stop.set())
        plan = read_plan(self._campaign, self._run)
        device = torch.device(self._campaign.how.device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        exact_arithmetic(self._campaign.how.threads_per_rank)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._refuse_other_versions(plan, device)
        self._contexts = self._load_contexts(plan, device)
        self._specs = {name: _specs(context) for name, context in self._contexts.items()}
        self._encoders = {name: ShardEncoder(specs) for name, specs in self._specs.items()}
        self._device = plan.versions["device"]
        self._meter = EnergyMeter(device)
        self._done = recorded_recipes(self._run, whole=self._campaign.how.retry_quarantined)
        self._judge(plan)
        part = PartWriter(self._run.part(self._task, self._attempt, self._number))
        self._inventory = read_inventory(self._campaign, self._run)
        how = self._campaign.how
        self._reader = RasterReader(how.threads_per_rank, attempts=how.read_attempts)
        try:
            draws = ShardQueue(self._groups, self._may_draw, self._world, self._count)
            shards = self._begun(draws.ahead())
            if device.type == "cpu" and how.threads_per_rank == 1 and how.ranks >= cores():
                self._while_busy(part, shards)
            self._write(part, prefetched(self._embed(prefetched(self._read(shards)))))
            self._in_turn(part, self._begun(chain(draws.singly(), self._suspects())))
        finally:
            self._reader.close()
        return StartAgain.exit_code if self._stop.is_set() or self._undone else 0

    def _in_turn(self, part: PartWriter, shards: Iterator[Shard]) -> None:
        """Without threads: each is written before the next is drawn."""
        self._write(part, self._embed(self._read(shards)))

    def _while_busy(self, part: PartWriter, shards: Iterator[Shard]) -> None:
        """In turn, until waiting for a disk or a network has taken a second, and a tenth of the time so far."""
        began_s, computed_s = time.perf_counter(), time.process_time()
        for shard in shards:
            self._in_turn(part, iter([shard]))
            wall_s = time.perf_counter() - began_s
            waited_s = wall_s - (time.process_time() - computed_s)
            if waited_s > max(_PATIENCE_S, (1 - _BUSY) * wall_s):
                log.info("reading ahead from now on: of %.2f s the rank waited %.2f", wall_s, waited_s)
                return

    def _load_contexts(self, plan: Plan, device: torch.device) -> dict[str, LayerContext]:
        """Of each layer. Nothing that they are made of outlives this; it would take as much memory again."""
        agreed = broadcast_files(self._run, plan, self._store, self._number, self._world, device)
        contexts = {}
        for name, layer in plan.layers.items():
            data, program = agreed.pop(name)
            weights = parse_weights(data, self._campaign, name, str(self._run.weights(name)))
            contexts[name] = load_context(
                self._campaign, name, list(layer.zones), weights, device, layer.batch, program
            )
        return contexts

    def _refuse_other_versions(self, plan: Plan, device: torch.device) -> None:
        here = versions_here(plan, device)
        for name, planned in plan.versions.items():
            if here[name] != planned:
                raise WorkError(
                    f"{socket.gethostname()} has {name} {here[name]}, the plan was made for {planned}: the bytes "
                    "would differ; run there what the plan was made with, or `embedcube plan` again"
                )

    def _judge(self, plan: Plan) -> None:
        """Find the shards that a killed rank had in hand, and those that were to blame."""
        self._groups = read_shards(self._run, plan, self._task)
        undone = {shard.recipe for group in self._groups for shard in group} - self._done
        self._crashes = crashes_by_shard(self._run, undone)
        if self._campaign.how.retry_quarantined:
            self._refused = {}
        else:
            self._refused = {recipe: why for recipe, died in self._crashes.items() if (why := blame(died))}

    def _begun(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """The same, until no further one may be begun."""
        for shard in shards:
            if self._may_not_begin(shard):
                return
            yield shard

    def _may_draw(self, shard: Shard) -> bool:
        return shard.recipe not in self._done and not self._suspect(shard)

    def _suspects(self) -> Iterator[Shard]:
        """Those of the suspects that are this rank's: one that has killed goes to another node each time, and last."""
        here = self._campaign.how.ranks
        nodes = self._world // here
        suspects = [shard for group in self._groups for shard in group if self._suspect(shard)]
        for shard in sorted(suspects, key=lambda shard: len(self._crashes[shard.recipe])):
            turn = int(shard.recipe[:8], 16) + len(self._crashes[shard.recipe])
            if turn % nodes * here + turn // nodes % here == self._number:
                log.warning("%s alone: a rank was killed that had it in hand", shard)
                yield shard

    def _suspect(self, shard: Shard) -> bool:
        return shard.recipe in self._crashes and shard.recipe not in self._refused

    def _may_not_begin(self, shard: Shard) -> bool:
        """A signal came, the parent is gone, or the time is up; if not, the parent knows of the shard from now on."""
        self._drawn_last.append(shard.recipe)
        try:
            # another parent may have begun again: a rank without its own does not go on with its group
            self._store.set(f"{IN_HAND}/{self._number}", " ".join(self._drawn_last))
        except RuntimeError as error:
            self._parent_is_gone(error)
        return self._stop.is_set() or self._time_is_up(shard)

    def _time_is_up(self, shard: Shard) -> bool:
        """The job would end before this shard and those before it in the pipeline were written."""
        if time.time() + SAMPLES_IN_FLIGHT * self._longest_s < self._ends:
            return False
        log.warning("%s is not begun: the longest shard took %.0f s, and the job ends", shard, self._longest_s)
        self._stop.set()
        return True

    def _count(self, counter: str) -> int:
        """Move a counter and return it; when its parent is gone, or a signal came, more than there can be."""
        if not self._stop.is_set():
            try:
                return self._store.add(counter, 1)
            except RuntimeError as error:
                self._parent_is_gone(error)
        return sys.maxsize

    def _parent_is_gone(self, error: RuntimeError) -> None:
        log.warning("the counter is lost, the parent is gone: %s", str(error).splitlines()[0])
        self._stop.set()

    def _read(self, shards: Iterator[Shard]) -> Generator[_InFlight, None, None]:
        """Samples; a shard that cannot be read for a passing reason is counted and passed over."""
        for shard in shards:
            item = _InFlight(shard=shard, scenes=[self._inventory[i] for i in shard.scenes], started=_now())
            context, refused = self._contexts[shard.layer], self._refused.get(shard.recipe, "")
            try:
                item.sample = read_sample(
                    shard, item.scenes, context, self._reader, refused=refused, timings=item.timings
                )
            except OSError as error:
                self._undone += 1
                log.warning("%s stays undone: %s", shard, error)
                continue
            finally:
                item.timings.seconds.update(self._reader.spent())
            item.pixels = copied(shard, item.sample, context)
            yield item

    def _embed(self, items: Iterator[_InFlight]) -> Generator[_InFlight, None, None]:
        """The device's part; nothing but forward passes and what they need happens here."""
        for item in items:
            assert item.sample is not None
            assert item.pixels is not None
            item.timings.add("wait", time.perf_counter() - (self._device_free_s or item.begun_s))
            item.timings.add("held", self._device_held_s)
            context = self._contexts[item.shard.layer]
            item.cells = embed_sample(item.shard, item.sample, item.pixels, context, item.timings)
            # the pixels are not needed any more, and the next two samples are in memory already
            nothing = np.empty((0, 0, 0, 0), dtype=np.float32)
            item.sample = replace(item.sample, x_tcyx=nothing, clear_tsyx=nothing.astype(bool))
            item.pixels = None
            done_s = time.perf_counter()
            yield item
            self._device_free_s = time.perf_counter()
            self._device_held_s = self._device_free_s - done_s

    def _write(self, part: PartWriter, items: Iterator[_InFlight]) -> None:
        for item in items:
            self._write_one(part, item)

    def _write_one(self, part: PartWriter, item: _InFlight) -> None:
        shard, sample, cells = item.shard, item.sample, item.cells
        assert sample is not None
        assert cells is not None
        with item.timings.step("encode"):
            objects = self._encoders[shard.layer].encode(cells.arrays)
        with item.timings.step("write"):
            keys = {spec.name: spec.key(shard.t, shard.iy, shard.ix) for spec in self._specs[shard.layer]}
            stored = part.write_objects(f"{shard.layer}/{shard.zone}", keys, objects)
            contributions_offset = part.write_contributions(sample.contributions)
        scene_of = dict(zip(shard.scenes, item.scenes, strict=True))
        quarantined = tuple(
            Quarantined(
                archive=scene_of[i].archive, scene=scene_of[i].id, scene_digest=scene_of[i].digest, reason=reason
            )
            for i, reason in sample.quarantined
        )
        found = np.bincount(cells.arrays["status"].ravel(), minlength=len(STATUS_MEANINGS))
        counts = {name: int(n) for name, n in zip(STATUS_MEANINGS, found, strict=True)} | {"chips": cells.chips}
        record = Record(
            shard=str(shard),
            recipe=shard.recipe,
            objects=stored,
            scenes=tuple(scene.digest for scene in item.scenes),
            quarantined=quarantined,
            contributions_offset=contributions_offset,
            contributions_size=len(sample.contributions),
            contributions_sha256=sha256(sample.contributions).hexdigest(),
            counts=counts,
            seconds={step: round(seconds, 6) for step, seconds in item.timings.seconds.items()},
            read_bytes=self._read_since(),
            energy_j=self._meter.joules(),
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            started=item.started,
            finished=_now(),
            host=socket.gethostname(),
            device=self._device,
            attempt=self._attempt,
            rank=self._number,
            code_version=embedcube.__version__,
            job=os.environ.get("SLURM_JOB_ID", ""),
            container=os.environ.get("EMBEDCUBE_IMAGE_DIGEST", ""),
        )
        part.write_record(record)
        took = datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)
        self._longest_s = max(self._longest_s, took.total_seconds())
        steps = " ".join(f"{step} {seconds:.2f}" for step, seconds in record.seconds.items())
        log.info(
            "%s: %d of %d cells, %d scenes, %s s",
            shard,
            counts["valid"] + counts["valid_incomplete"],
            found.sum(),
            len(item.scenes),
            steps,
        )
        for bad in quarantined:
            log.warning("%s: quarantined %s: %s", shard, bad.scene, bad.reason)

    def _read_since(self) -> int:
        """Bytes that this process has asked the system for since it was asked last."""
        before, self._read_bytes = self._read_bytes, read_bytes()
        return self._read_bytes - before


def _specs(context: LayerContext) -> tuple[ArraySpec, ...]:
    return array_specs(cells=context.layout.shard_cells, dimensions=context.dimensions, encoding=context.encoding)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main(arguments: list[str]) -> int:
    """One rank; the exit code says ok (0), failed (1), wrong (2) or start me again (75)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    # GDAL's own complaints come back as the reason of a quarantine: one line is enough
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    # who looks at a hanging job at night cannot attach a debugger there
    faulthandler.register(signal.SIGQUIT)
    run = RunDir(Path(arguments[0]))
    try:
        campaign = load_campaign(run.campaign)
        return _Rank(campaign, run, int(arguments[1]), arguments[2]).main()
    except EmbedcubeError as error:
        log.error("%s", error)
        return error.exit_code
    except OSError as error:
        log.error("%s", error)
        return 1
    except Exception as error:
        log.exception("%s", "this is a fault of embedcube or of a plugin")
        log.error("%s: %s", type(error).__name__, error)
        return 1


if __name__ == "__main__":
    # a rank that a thread of a library keeps from ending would hold its whole allocation
    code = main(sys.argv[1:])
    logging.shutdown()
    os._exit(code)
