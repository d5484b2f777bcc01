"""An encoded shard -> the pack and the records of a rank."""

import logging
import os
import resource
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import numpy as np

import embedcube
from embedcube.campaign.parts import PartWriter, Quarantined, Record
from embedcube.cube.encoding import STATUS_MEANINGS, why_not_held
from embedcube.kernel.embed import Cells, EncodedShard, ReadShard
from embedcube.machine import read_bytes, shared_bytes
from embedcube.workers.energy import EnergyMeter
from embedcube.workers.protocol import IMAGE_DIGEST

log = logging.getLogger(__name__)


class Recorder:
    """Writes the shards of one rank, and one line of log for each."""

    def __init__(
        self,
        part: PartWriter,
        meter: EnergyMeter,
        read_so_far: int,
        refused: Mapping[str, str],
        *,
        device: str,
        attempt: str,
        rank: int,
    ) -> None:
        """`device` is the device class; `refused` says why no scene of some shards, by recipe, was read.

        The first record counts the bytes read beyond `read_so_far`.
        """
        self._part, self._meter, self._read_bytes, self._refused = part, meter, read_so_far, refused
        # what was imported before the fork, mostly: each rank counts its part of it
        self._shared_bytes = shared_bytes()
        self._record = partial(
            Record,
            host=socket.gethostname(),
            device=device,
            attempt=attempt,
            rank=rank,
            code_version=embedcube.__version__,
            job=os.environ.get("SLURM_JOB_ID", ""),
            container=os.environ.get(IMAGE_DIGEST, ""),
        )

    def write(self, encoded: EncodedShard) -> float:
        """Write a shard and then its record; returns the seconds since its reading began."""
        read, shard, sample = encoded.read, encoded.read.shard, encoded.read.sample
        with read.timings.step("write"):
            arrays, fed = self._part.write_shard(encoded.arrays, sample.contributions + sample.shares)
        finished = datetime.now(UTC)
        record = self._record(
            shard=str(shard),
            recipe=shard.recipe,
            arrays=arrays,
            fed=fed,
            contributions_size=len(sample.contributions),
            scenes=tuple(scene.digest for scene in read.scenes),
            quarantined=_quarantined(read),
            refused=self._refused.get(shard.recipe, ""),
            counts=_counts(encoded.cells),
            not_held=encoded.cells.not_held,
            seconds={step: round(seconds, 6) for step, seconds in read.timings.seconds.items()},
            read_bytes=self._read_since(),
            energy_j=self._meter.joules(),
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self._shared_bytes,
            started=read.started.isoformat(timespec="milliseconds"),
            finished=finished.isoformat(timespec="milliseconds"),
        )
        self._part.write_records([record])
        took_s = (finished - read.started).total_seconds()
        _log(record, took_s)
        reasons = why_not_held(read.context.encoding)
        for reason, count in record.not_held.items():
            log.warning("%s: %d cells failed: %s", record.shard, count, reasons[reason])
        return took_s

    def _read_since(self) -> int:
        """Bytes that this process has read since the last record."""
        before, self._read_bytes = self._read_bytes, read_bytes()
        return self._read_bytes - before


def _quarantined(read: ReadShard) -> tuple[Quarantined, ...]:
    scene_of = dict(zip(read.shard.scenes, read.scenes, strict=True))
    return tuple(
        Quarantined(
            archive=scene_of[i].archive,
            scene=scene_of[i].id,
            scene_digest=scene_of[i].digest,
            reason=reason.words,
            asks=reason.asks,
        )
        for i, reason in read.sample.quarantined
    )


def _counts(cells: Cells) -> dict[str, int]:
    """The number of cells by status, and of chips that were embedded."""
    counts = np.bincount(cells.arrays["status"].ravel(), minlength=len(STATUS_MEANINGS))
    return {name: int(n) for name, n in zip(STATUS_MEANINGS, counts, strict=True)} | {"chips": cells.chips}


def _log(record: Record, took_s: float) -> None:
    """One line for the shard, and one for each scene that could not be used."""
    with_vector = record.counts["valid"] + record.counts["valid_incomplete"]
    cells = sum(record.counts.values()) - record.counts["chips"]
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in record.seconds.items())
    log.info(
        "%s: %d of %d cells have a vector, from %d scenes, in %.2f s (%s)",
        record.shard,
        with_vector,
        cells,
        len(record.scenes),
        took_s,
        steps,
    )
    for bad in record.quarantined:
        log.warning("%s: quarantined %s: %s", record.shard, bad.scene, bad.reason)
