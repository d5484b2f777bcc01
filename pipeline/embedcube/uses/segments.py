"""One segment of the vector index: what decides its bytes, and how it is made. Dask workers run `make_segments`.

The bytes follow from the members alone, in whole numbers: they are the same on every machine and with any library.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from embedcube.campaign.run_folder import fsync_folder, replacing
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE, decode
from embedcube.cube.reader import Cube
from embedcube.cube.segments import (
    ABSENT,
    FIND_VERSION,
    INCOMPLETE,
    Segment,
    SegmentEntry,
    centroids_file,
    file_digest,
    find_folder,
    read_tensors,
    segment_file,
)
from embedcube.cube.similar import nearest
from embedcube.errors import EmbedcubeError, WorkError
from embedcube.uses.centroids import as_int8

Failure = WorkError | OSError | MemoryError
"""Errors that a task gives back as its result: Dask would log a traceback beside our one line."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One shard of a segment."""

    row: int
    """row of cells of the segment at which it begins"""
    column: int
    objects: tuple[str, ...]
    """SHA-256 of its vectors and of its status, and in a centred layer of its scales"""


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """Segments of one block of shards in the windows that share the objects of the cube."""

    cube: str
    """path of the cube"""
    layer: str
    zone: str
    """path of the group: "<layer>/<zone>" """
    y: int
    """row of the cube's arrays at which the segment begins"""
    x: int
    height: int
    width: int
    side: int
    """cells along one side of a shard"""
    centroids: str
    """SHA-256 of their file"""
    members: dict[int, tuple[Member, ...]]
    """by window"""
    elsewhere: dict[str, tuple[str, str]]
    """files of other versions, and their digests, by the name of the segment"""
    offset: str = ""
    """SHA-256 of the offset of a centred layer"""

    def name(self, t: int) -> str:
        """Name of the segment of a window: the digest of all that decides its bytes."""
        members = [[m.row, m.column, *m.objects] for m in self.members[t]]
        said = [FIND_VERSION, self.centroids, self.height, self.width, self.side, members]
        said += [self.offset] if self.offset else []
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Made:
    """A segment that is there, and how it came."""

    entry: SegmentEntry
    how: str
    """ "built", "linked" (from another version), or "kept" """


def make_segments(task: SegmentTask) -> list[Made] | Failure:
    """Make the segments of a task that are not there yet; returns all of them, or the error as a value."""
    try:
        folder = find_folder(Path(task.cube))
        made = {t: found for t in task.members if (found := _there(task, t, folder))}
        missing = [t for t in task.members if t not in made]
        if missing:
            tensors = read_tensors(centroids_file(folder, task.layer, task.centroids))[0]
            for t, arrays in _sorted_vectors(task, missing, np.array(tensors["centroids"])):
                target = segment_file(folder, task.layer, task.name(t))
                with replacing(target) as temporary:
                    temporary.write_bytes(save(arrays))
                    digest = file_digest(temporary)
                    temporary.chmod(0o444)
                made[t] = Made(entry=_entry(task, t, digest, len(arrays["cell"])), how="built")
        return [made[t] for t in sorted(made)]
    except EmbedcubeError as error:
        return WorkError(str(error))
    except (OSError, MemoryError) as error:
        return error


def _entry(task: SegmentTask, t: int, digest: str, cells: int) -> SegmentEntry:
    return SegmentEntry(
        name=task.name(t),
        sha256=digest,
        zone=task.zone,
        t=t,
        y=task.y,
        x=task.x,
        height=task.height,
        width=task.width,
        cells=cells,
    )


def _there(task: SegmentTask, t: int, folder: Path) -> Made | None:
    """The segment of a window, if its file is there, or can be linked from another version with its bytes unchanged."""
    name = task.name(t)
    target = segment_file(folder, task.layer, name)
    source, listed = task.elsewhere.get(name, ("", ""))
    if target.is_file():
        digest = file_digest(target)
        if not listed or listed == digest:
            return Made(entry=_entry(task, t, digest, len(Segment(target).cell)), how="kept")
        target.unlink()  # the disk has changed it
    if source and Path(source) != target and Path(source).is_file() and file_digest(Path(source)) == listed:
        try:
            os.link(source, target)
        except OSError:
            return None  # another file system: it is made here
        fsync_folder(target.parent)
        return Made(entry=_entry(task, t, listed, len(Segment(target).cell)), how="linked")
    return None


def _sorted_vectors(
    task: SegmentTask, windows: list[int], centroids: NDArray[np.int8]
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """For each window the arrays of its segment: valid vectors by list, and within a list by place."""
    cube = Cube(task.cube)
    embedding, status = cube.array(task.zone, "embedding"), cube.array(task.zone, "status")
    offset = cube.offset(task.zone)
    times = slice(windows[0], windows[-1] + 1)
    vectors: dict[int, list[NDArray[Any]]] = {t: [] for t in windows}
    cells: dict[int, list[NDArray[np.uint32]]] = {t: [] for t in windows}
    scales: dict[int, list[NDArray[np.float32]]] = {t: [] for t in windows}
    for row, column in sorted({(m.row, m.column) for t in windows for m in task.members[t]}):
        y, x = (slice(at, at + task.side) for at in (task.y + row, task.x + column))
        stored, said = embedding[times, y, x], status[times, y, x]
        scale = None if offset is None else cube.array(task.zone, "scale")[times, y, x]
        for t in windows:
            of_t = said[t - times.start]
            down, across = np.nonzero((of_t == VALID) | (of_t == VALID_INCOMPLETE))
            incomplete = np.where(of_t[down, across] == VALID_INCOMPLETE, INCOMPLETE, 0)
            vectors[t].append(stored[t - times.start][down, across])
            if scale is not None:
                scales[t].append(scale[t - times.start][down, across])
            cells[t].append(((down + row) * task.width + across + column + incomplete).astype(np.uint32))
        del stored
    for t in windows:
        own, scale = vectors.pop(t), scales.pop(t)
        which = [
            nearest(as_int8(part if offset is None else decode(part, scale[i], offset)), centroids)
            for i, part in enumerate(own)
        ]
        arrays, order = _by_list(own, cells.pop(t), np.concatenate(which), len(centroids), (task.height, task.width))
        yield t, arrays | ({} if offset is None else {"scale": np.concatenate(scale)[order]})


def _by_list(
    parts: list[NDArray[Any]],
    cells: list[NDArray[np.uint32]],
    which: NDArray[np.int64],
    lists: int,
    shape: tuple[int, int],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The arrays of a segment whose cells are in the lists `which`, of so many, and the order of its rows."""
    cell = np.concatenate(cells)
    order = np.lexsort((cell & np.uint32(INCOMPLETE - 1), which))
    # into the final array part by part: the vectors are held twice at most
    at = np.empty(len(order), np.int64)
    at[order] = np.arange(len(order))
    vectors = np.empty((len(order), parts[0].shape[1]), parts[0].dtype)
    begin = 0
    while parts:
        part = parts.pop(0)
        vectors[at[begin : begin + len(part)]] = part
        begin += len(part)
    cell = cell[order]
    row = np.full(shape[0] * shape[1], ABSENT, np.uint32)
    row[cell & np.uint32(INCOMPLETE - 1)] = np.arange(len(cell), dtype=np.uint32)
    first = np.searchsorted(which[order], np.arange(lists + 1)).astype(np.int64)
    return {"vectors": vectors, "cell": cell, "first": first, "row": row.reshape(shape)}, order
