"""The stages of the kernel, overlapped: while one shard is computed, the next is read and the one before is written.

    read_stage       a thread, one shard ahead
    embed_stage      a thread: the device's
    encode_stage     the main thread, which also writes the shard and its record

A core that computes all the time has nothing to wait for: there all three run in turn, in one thread (docs/adr/0010).
Near the end of a task too, so that all ranks end about a shard apart.
"""

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing

from embedcube.campaign.plan import Shard
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.scene import Scene
from embedcube.campaign.verdicts import Reason
from embedcube.kernel.embed import EmbeddedShard, ReadShard, embed_stage, encode_stage, read_stage
from embedcube.kernel.layer import LayerContext
from embedcube.sources.reader import RasterReader
from embedcube.workers.failures import named
from embedcube.workers.prefetch import prefetched
from embedcube.workers.queue import RankDraws
from embedcube.workers.recorder import Recorder

log = logging.getLogger(__name__)

_BUSY = 0.9
"""share of the wall time; a core that computes for more of it would lose more by threads than it waits"""

_PATIENCE_S = 1.0
"""seconds that a rank may wait before `_BUSY` is applied: the first files are opened, and a small shard is all fsync"""


class Pipeline:
    """Takes shards through the stages of the kernel, and records them."""

    def __init__(
        self,
        contexts: Mapping[str, LayerContext],
        scenes: Sequence[Scene],
        refused: Mapping[str, str],
        reader: RasterReader,
        recorder: Recorder,
        recipes: PlannedRecipes,
    ) -> None:
        """`scenes` is the inventory; `refused` says why no scene of some shards, by recipe, is to be read.

        `recipes` derives the recipe of each shard again, before it is read, and knows which scenes are out.
        """
        self._contexts, self._scenes, self._refused = contexts, scenes, refused
        self._reader, self._recorder, self._recipes = reader, recorder, recipes
        self.undone = 0
        """shards that could not be read for a reason that may pass"""
        self.last_error = ""
        """why the last of them could not be read"""
        self._device_free_s = time.perf_counter()
        """when the device's thread was last free for the next shard"""
        self._device_held_s = 0.0
        """how long it waited, before that, for the writing thread"""

    def run(self, draws: RankDraws, *, busy_core: bool) -> None:
        """Embed and record all shards; with `busy_core`, in turn for as long as the core has little to wait for."""
        shards = draws.ahead()
        if busy_core:
            self._in_turn_while_busy(shards, draws)
        # closed at once where writing fails: an error must not wait for the other two threads
        with closing(prefetched(self._embed(prefetched(self._read(shards, draws))))) as embedded:
            self._write(embedded, draws)
        self._in_turn(draws.singly(), draws)

    def _in_turn(self, shards: Iterator[Shard], draws: RankDraws) -> None:
        """Without threads: each shard is written before the next is drawn."""
        self._write(self._embed(self._read(shards, draws)), draws)

    def _in_turn_while_busy(self, shards: Iterator[Shard], draws: RankDraws) -> None:
        """In turn, until waiting for a disk or a network has taken a second, and a tenth of the time so far."""
        start_s, cpu_start_s = time.perf_counter(), time.process_time()
        for shard in shards:
            self._in_turn(iter([shard]), draws)
            wall_s = time.perf_counter() - start_s
            waited_s = wall_s - (time.process_time() - cpu_start_s)
            if waited_s > max(_PATIENCE_S, (1 - _BUSY) * wall_s):
                log.info("reading ahead from now on: the rank waited %.2f of %.2f s", waited_s, wall_s)
                return

    def _read(self, shards: Iterator[Shard], draws: RankDraws) -> Generator[ReadShard, None, None]:
        """Shards that were read; one that cannot be read for a passing reason is counted, and left out."""
        for shard in shards:
            self._recipes.refuse_other(shard)
            scenes, refused = [self._scenes[i] for i in shard.scenes], self._recipes.out(shard)
            if why := self._refused.get(shard.recipe):
                refused = dict.fromkeys(shard.scenes, Reason(words=why))
            try:
                with named(shard, "read"):
                    read = read_stage(shard, scenes, self._contexts[shard.layer], self._reader, refused)
            except OSError as error:
                self.undone += 1
                self.last_error = f"{shard}: undone, to be started again: {error}"
                log.warning("%s", self.last_error)
                draws.let_go(shard)
                continue
            yield read

    def _embed(self, shards: Iterator[ReadShard]) -> Generator[EmbeddedShard, None, None]:
        """The device's thread: nothing but forward passes and what they need happens here."""
        for read in shards:
            read.timings.add("wait", time.perf_counter() - self._device_free_s)
            read.timings.add("held", self._device_held_s)
            with named(read.shard, "embedded"):
                embedded = embed_stage(read)
            # the next two samples are in memory already
            read.drop_pixels()
            done_s = time.perf_counter()
            yield embedded
            self._device_free_s = time.perf_counter()
            self._device_held_s = self._device_free_s - done_s

    def _write(self, shards: Iterator[EmbeddedShard], draws: RankDraws) -> None:
        for embedded in shards:
            with named(embedded.read.shard, "written"):
                draws.written(embedded.read.shard, self._recorder.write(encode_stage(embedded)))
