"""The `provenance/` group of a cube: its layout and its reader."""

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from embedcube.cube.claims import check_chunks, check_part, check_whole
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.errors import RequestError

_RUNS, _RUN = 16, 256
"""A sample of records is _RUNS runs of _RUN neighbouring records each, because neighbours lie in few chunks."""


_AT_ONCE = 4096
"""records that are read at once, where many are needed"""


def arrays_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of the encoded arrays of a record; cubes of before called them otherwise."""
    return list(record.get("arrays") or record["objects"])


class Provenance:
    """The group `provenance/` of a cube; `consolidate/provenance.py` describes its arrays."""

    def __init__(self, store: Store, address: str) -> None:
        """Open the group of the cube in `store`; a RequestError says that there is none."""
        try:
            self._group: Any = zarr.open_group(store, path="provenance", mode="r", zarr_format=3)
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            raise RequestError(
                f"{address}/provenance: the cube has no provenance, which this needs; `embedcube consolidate` writes it"
            ) from None
        self._address = address
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self._columns: dict[str, _Column] = {}

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes that hold for all shards."""
        return dict(self._group.attrs)

    def array(self, name: str) -> NDArray[Any]:
        """One of the arrays, read whole."""
        array = self._group[name]
        check_whole(f"{self._address}/provenance/{name}", array)
        return np.asarray(array[...])

    @cached_property
    def _places(self) -> NDArray[Any]:
        """(t, iy, ix) of every shard: a few bytes each, where a dict has hundreds."""
        return np.stack([self.array(f"shard_{name}") for name in ("t", "iy", "ix")], axis=-1)

    def shard(self, zone: str, t: int, iy: int, ix: int) -> int:
        """Row of a shard in the arrays of shards.

        Raises:
            RequestError: nothing was planned there.
        """
        rows, places = self.shards_of(zone)
        found = rows[(places == (t, iy, ix)).all(axis=1)]
        if not len(found):
            words = f"{zone}: no shard was planned at window {t}, row {iy}, column {ix}"
            if len(places):
                (top, left), (bottom, right) = places[:, 1:].min(axis=0).tolist(), places[:, 1:].max(axis=0).tolist()
                words += f"; shards lie in rows {top} to {bottom} and columns {left} to {right}"
            raise RequestError(words)
        return int(found[-1])

    @cached_property
    def places(self) -> dict[tuple[str, int, int, int], int]:
        """Row of every shard by (zone, t, iy, ix), the zone as "<layer>/<zone>"; hundreds of bytes for each."""
        names = self.attributes["zones"]
        zones = [names[i] for i in self._zone_of_shard.tolist()]
        return {(zone, *place): row for row, (zone, place) in enumerate(zip(zones, self._places.tolist(), strict=True))}

    def shards_of(self, zone: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Rows of the shards of a zone, "<layer>/<zone>", in ascending order, and (t, iy, ix) of each."""
        rows = self._rows(zone)
        return rows, self._places[rows]

    def shards_in(self, zone: str) -> int:
        """How many shards were planned in a zone, "<layer>/<zone>"."""
        return len(self._rows(zone))

    def status_counts(self, zones: tuple[str, ...]) -> dict[str, int]:
        """Cells by name of their status, from the records of some zones; of many records a sample is read."""
        counts = dict.fromkeys(STATUS_MEANINGS, 0)
        rows = np.concatenate([self._rows(zone) for zone in zones])
        if len(rows) > _RUNS * _RUN:
            firsts = np.linspace(0, len(rows) - _RUN, _RUNS).astype(np.int64)
            rows = rows[(firsts[:, None] + np.arange(_RUN)).ravel()]
        for record in self.records(rows):
            for name in counts:
                counts[name] += record["counts"].get(name, 0)
        return counts

    def _rows(self, zone: str) -> NDArray[np.int64]:
        names = self.attributes["zones"]
        return np.flatnonzero(self._zone_of_shard == names.index(zone)) if zone in names else np.zeros(0, np.int64)

    @cached_property
    def _zone_of_shard(self) -> NDArray[Any]:
        return self.array("shard_zone")

    def records(self, rows: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """The record of each of these shards; neighbours are read together, and only some are held at once."""
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else ():
            for first in range(int(run[0]), int(run[-1]) + 1, _AT_ONCE):
                last = min(first + _AT_ONCE, int(run[-1]) + 1)
                yield from map(json.loads, self.rows_of("shard_record", first, last))

    def digests(self, shards: Sequence[int]) -> dict[int, dict[str, str]]:
        """SHA-256 of each encoded array, by the row of a shard and the name of the array; in ascending order."""
        rows = np.asarray(shards, np.int64)
        return {
            row: {one["array"]: one["sha256"] for one in arrays_in(record)}
            for row, record in zip(rows.tolist(), self.records(rows), strict=True)
        }

    def record(self, shard: int) -> dict[str, Any]:
        """Record of a shard."""
        return dict(json.loads(self._blob("shard_record", shard)))

    def arrays_of(self, shard: int) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of the encoded arrays of a shard."""
        return arrays_in(self.record(shard))

    def record_line(self, shard: int) -> bytes:
        """Record of a shard as a line of records.jsonl, with its checksum."""
        return self._blob("shard_record", shard) + b"\n"

    def blobs(self, name: str) -> list[bytes]:
        """All rows of `scene` or of another array of texts, in one read."""
        data = bytes(self.array(name))
        return [data[a:b] for a, b in pairwise(self._firsts(name).tolist())]

    def rows_of(self, name: str, first: int, last: int) -> list[bytes]:
        """Rows `first` to `last` - 1 of an array of texts or bytes, in one read."""
        ends = self._firsts(name)[first : last + 1]
        data = self._column(name).part(int(ends[0]), int(ends[-1])).tobytes()
        return [data[a:b] for a, b in pairwise((ends - ends[0]).tolist())]

    def scene(self, row: int) -> dict[str, Any]:
        """Facts of a scene, from its row."""
        return dict(json.loads(self._blob("scene", row)))

    def weights(self, layer: str) -> bytes | None:
        """The weights file of a layer; None where the cube does not keep it, as it does not keep published ones."""
        kept = self.attributes.get("weights_kept", [])
        return self._blob("weights", kept.index(layer)) if layer in kept else None

    def withdrawn(self, entries: Sequence[str], archives: Sequence[str]) -> list[dict[str, Any]]:
        """Facts of the scenes of some archives that the campaign's `withdraw` means: "<id>" or "<archive>/<id>"."""
        ids = [json.dumps(entry.rpartition("/")[2]).encode() for entry in entries]
        texts = [text for text in self.blobs("scene") if any(one in text for one in ids)] if entries else []
        scenes = [dict(json.loads(text)) for text in texts]
        meant = set(entries)
        return [
            scene
            for scene in scenes
            if scene["archive"] in archives and not meant.isdisjoint((scene["id"], f"{scene['archive']}/{scene['id']}"))
        ]

    def contributions(self, shard: int) -> NDArray[np.uint8]:
        """Packed bits of the cells to which each scene contributed, one row for each link of the shard."""
        first, last = self._firsts("link")[shard : shard + 2].tolist()
        packed = np.frombuffer(self._blob("contributions", shard), dtype=np.uint8)
        return packed.reshape(last - first, -1) if last > first else packed.reshape(0, 0)

    def shares(self, shard: int, archives: int, cells: int, cell: int) -> NDArray[np.float64]:
        """Share of each frame that was observed at cell number `cell` of a shard of `cells` cells: (frame, archive).

        No row where the cube does not have it, as older ones.
        """
        if "shares" not in self._group:
            return np.empty((0, archives))
        stored = np.frombuffer(zlib.decompress(self._blob("shares", shard)), dtype="<u2")
        return np.asarray(stored.reshape(-1, archives, cells)[:, :, cell] / 65535)

    def links(self, shard: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Rows of the scenes of a shard, and whether each could not be read."""
        first, last = self._firsts("link")[shard : shard + 2].tolist()
        quarantined = self._column("link_quarantined").part(first, last).astype(bool)
        return self._column("link_scene").part(first, last), quarantined

    def scenes_of(self, shard: int, cell: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Scenes that contributed to cell number `cell` of a shard, and the other scenes that were planned for it."""
        used, others = [], []
        rows, quarantined = self.links(shard)
        contributions = self.contributions(shard)
        first = self._firsts("link")[shard]
        resampling = self._column("link_resampling").part(int(first), int(first) + len(rows))
        reasons = {q["scene_digest"]: q["reason"] for q in self.record(shard)["quarantined"]}
        digests = self._column("scene_digest")
        for link, row in enumerate(rows.tolist()):
            scene = self.scene(row)
            described = {key: scene[key] for key in ("id", "archive", "time", "acquisition", "offset", "processing")}
            described["resampling"] = json.loads(self._blob("resampling", int(resampling[link])))
            described["sha256"] = digests.part(row, row + 1).tobytes().hex()
            if contributions[link, cell // 8] >> (7 - cell % 8) & 1:
                used.append(described)
            else:
                others.append(described | {"reason": reasons.get(described["sha256"], "") if quarantined[link] else ""})
        acquisitions = {scene["acquisition"]: scene["id"] for scene in used}
        for scene in others:
            twin = acquisitions.get(scene["acquisition"])
            beyond = f" beyond those of {twin}, the same acquisition" if twin else ""
            scene["reason"] = scene["reason"] or f"no clear pixel in the cell{beyond}"
        return used, others

    def _blob(self, name: str, row: int) -> bytes:
        first, last = self._firsts(name)[row : row + 2].tolist()
        return self._column(name).part(first, last).tobytes()

    def _column(self, name: str) -> "_Column":
        if name not in self._columns:
            self._columns[name] = _Column(f"{self._address}/provenance/{name}", self._group[name])
        return self._columns[name]

    def _firsts(self, name: str) -> NDArray[np.int64]:
        """Offset of the first byte of each row. Read once: a chunk of offsets costs far more than one row."""
        if name not in self._offsets:
            self._offsets[name] = self.array(f"{name}_first")
        return self._offsets[name]


class _Column:
    """Ranges of rows of an array. The last chunk is kept, because many ranges of one chunk are asked for."""

    def __init__(self, where: str, array: Any) -> None:
        check_chunks(where, array)
        self._where, self._array, self._rows = where, array, int(array.chunks[0])
        self._row_bytes = math.prod(map(int, array.shape[1:])) * int(array.dtype.itemsize)
        # in one assignment: several threads may ask at once
        self._kept: tuple[int, NDArray[Any]] = (0, np.empty(0, array.dtype))

    def part(self, first: int, last: int) -> NDArray[Any]:
        """Return rows `first` to `last` - 1; not to be written to."""
        start, kept = self._kept
        if not start <= first <= last <= start + len(kept):
            start = first // self._rows * self._rows
            check_part(self._where, first, last, self._row_bytes)
            if last > start + self._rows:
                return np.asarray(self._array[first:last])
            kept = np.asarray(self._array[start : start + self._rows])
            self._kept = start, kept
        return kept[first - start : last - start]
