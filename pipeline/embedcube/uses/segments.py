"""Making the vector index of a cube: `<version>.find/` beside it, segment by segment (`cube/segments.py` reads it).

A segment is a fixed block of shards in one window, about a million cells. Its name is the digest of what decides its
bytes: the centroids, the way of this module (FIND_VERSION), and the digests of the objects of its shards. So one rule
serves the first build, a build that was killed, a new window and a new version: what has its name is there already.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from embedcube.campaign.run_folder import TEMPORARY_PREFIX, fsync_folder, replacing, write_atomically
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.reader import Cube
from embedcube.cube.segments import (
    ABSENT,
    FIND_VERSION,
    INCOMPLETE,
    LayerIndex,
    Segment,
    SegmentEntry,
    centroids_file,
    file_digest,
    find_folder,
    read_index,
    read_tensors,
    segment_file,
    write_index,
)
from embedcube.cube.similar import nearest
from embedcube.errors import EmbedcubeError, WorkError
from embedcube.progress import Progress
from embedcube.uses.centroids import as_int8, fit_centroids

SEGMENT_CELLS = 1_000_000
"""cells of a segment, about"""

SEGMENT_BYTES = 1 << 28
"""most bytes of vectors of a segment, about: a task holds three times as much"""

_ABANDONED_S = 86_400.0
"""age at which a temporary file of another process is removed"""

Spread = Callable[[list["SegmentTask"]], Iterable["list[Made] | Failure"]]
"""Runs `make_segments` for each task, here or on workers, and gives the results in any order."""

Failure = WorkError | OSError | MemoryError
"""Errors that a task gives back as its result: Dask would log a traceback beside our one line."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One shard of a segment."""

    row: int
    """row of cells of the segment at which it begins"""
    column: int
    objects: tuple[str, str]
    """SHA-256 of its vectors and of its status"""


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

    def name(self, t: int) -> str:
        """Name of the segment of a window: the digest of all that decides its bytes."""
        members = [[m.row, m.column, *m.objects] for m in self.members[t]]
        said = [FIND_VERSION, self.centroids, self.height, self.width, self.side, members]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Made:
    """A segment that is there, and how it came."""

    entry: SegmentEntry
    how: str
    """ "built", "linked" (from another version), or "kept" """


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What `index-vectors` has done."""

    folder: str
    built: int
    """number of segments"""
    linked: int
    """number of segments that another version of the cube has too; the disk holds them once"""
    kept: int
    """number of segments that were there"""
    cells: int
    """cells with a vector, over all windows"""
    bytes: int
    """of all files of the index"""
    vector_bytes: int
    """of the vectors alone, as the cube stores them before compression"""


def index_vectors(cube: Cube, layers: tuple[str, ...], spread: Spread, progress: Progress) -> Indexed:
    """Make or complete the index of some layers of a cube.

    Killed at any moment and started again it goes on, and gives the same bytes. Other layers of the index stay.

    Raises:
        WorkError: a layer has no vector, or a segment could not be made.
    """
    folder = find_folder(cube.path)
    known, others = read_index(folder), list(_other_versions(folder))
    tasks: dict[str, list[SegmentTask]] = {}
    for layer in layers:
        (folder / layer).mkdir(parents=True, exist_ok=True)
        weights = str(cube.provenance.attributes["weights"][layer])
        centroids = _centroids(cube, layer, weights, folder, [(folder, known), *others])
        elsewhere = _elsewhere(layer, [(folder, known), *others])
        tasks[layer] = list(_tasks(cube, layer, centroids, elsewhere))
    made = _made(spread, [task for group in tasks.values() for task in group], progress)
    listed = {
        layer: LayerIndex(
            weights=str(cube.provenance.attributes["weights"][layer]),
            centroids=tasks[layer][0].centroids,
            segments=tuple(
                sorted(
                    (one.entry for one in made if one.entry.zone.split("/")[0] == layer),
                    key=lambda entry: (entry.zone, entry.t, entry.y, entry.x),
                )
            ),
        )
        for layer in layers
    }
    everything = {name: known[name] for name in known if name in cube.layers} | listed
    write_atomically(folder / "index.json", write_index(everything))
    _remove_unlisted(folder, everything)
    how = [one.how for one in made]
    features = {zone: cube.array(zone, "embedding") for zone in cube.zones}
    return Indexed(
        folder=str(folder),
        built=how.count("built"),
        linked=how.count("linked"),
        kept=how.count("kept"),
        cells=sum(one.entry.cells for one in made),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        vector_bytes=sum(
            entry.cells * features[entry.zone].shape[-1] * features[entry.zone].dtype.itemsize
            for layer in everything.values()
            for entry in layer.segments
        ),
    )


def here(tasks: list[SegmentTask]) -> Iterator["list[Made] | Failure"]:
    """Run the tasks in this process, one after the other."""
    return map(make_segments, tasks)


def _made(spread: Spread, tasks: list[SegmentTask], progress: Progress) -> list[Made]:
    """Segments of all tasks. The first failure is raised when all others are done, so that their work stays."""
    total, made, failures = sum(len(task.members) for task in tasks), [], []
    for result in spread(tasks):
        if isinstance(result, list):
            made += result
            progress(len(made), total)
        else:
            failures.append(result)
    if failures:
        raise failures[0]
    return made


# --- what is to be made ---------------------------------------------------------------------------


def segment_shards(side: int, windows: int, vector_bytes: int) -> int:
    """Shards along one side of a segment, for shards of `side` cells and objects of so many windows."""
    cells = min(SEGMENT_CELLS, SEGMENT_BYTES // vector_bytes) // windows
    return max(1, round(isqrt(cells) / side))


def _tasks(cube: Cube, layer: str, centroids: str, elsewhere: dict[str, tuple[str, str]]) -> Iterator[SegmentTask]:
    """Blocks of shards of a layer, counted from the origin of its lattice, so that a wider region shares them."""
    objects = cube.provenance.objects
    blocks: dict[tuple[str, int, int, int], dict[int, dict[tuple[int, int], int]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for (zone, t, iy, ix), row in cube.provenance.places.items():
        if zone.split("/")[0] == layer:
            array = cube.array(zone, "embedding")
            many = segment_shards(array.shards[1], array.chunks[0], array.shape[-1] * array.dtype.itemsize)
            above, left = _shards_before(cube, zone)
            block = (zone, t // array.chunks[0], (above + iy) // many, (left + ix) // many)
            blocks[block][t][iy, ix] = row
    digests = objects(sorted(row for block in blocks.values() for window in block.values() for row in window.values()))
    for (zone, *_), windows in sorted(blocks.items()):
        side = cube.array(zone, "embedding").shards[1]
        places = [place for window in windows.values() for place in window]
        (top, left), (bottom, right) = np.min(places, axis=0).tolist(), np.max(places, axis=0).tolist()
        yield SegmentTask(
            cube=str(cube.path),
            layer=layer,
            zone=zone,
            y=top * side,
            x=left * side,
            height=(bottom - top + 1) * side,
            width=(right - left + 1) * side,
            side=side,
            centroids=centroids,
            members={
                t: tuple(
                    Member(
                        row=(iy - top) * side,
                        column=(ix - left) * side,
                        objects=(digests[row]["embedding"], digests[row]["status"]),
                    )
                    for (iy, ix), row in sorted(window.items())
                )
                for t, window in sorted(windows.items())
            },
            elsewhere=elsewhere,
        )


def _shards_before(cube: Cube, zone: str) -> tuple[int, int]:
    """Rows and columns of shards between the origin of the zone's lattice and its first shard."""
    what, layer = cube.what, zone.split("/")[0]
    grid = what.get("layers", {}).get(layer, {}).get("grid") or what.get("grid") or {}
    origin_x, origin_y = grid.get("origin") or (0.0, 0.0)
    a, _, c, _, e, f = cube.group(zone).attrs["spatial:transform"]
    side = cube.array(zone, "embedding").shards[1]
    return round((f - origin_y) / (e * side)), round((c - origin_x) / (a * side))


def _other_versions(folder: Path) -> Iterator[tuple[Path, dict[str, LayerIndex]]]:
    """Indexes of other versions of the cube, the largest first; a damaged one is left out."""
    found = []
    for other in sorted(folder.parent.glob("*.find")):
        if other != folder:
            try:
                found.append((other, read_index(other)))
            except WorkError:
                continue
    return iter(sorted(found, key=lambda one: -sum(len(layer.segments) for layer in one[1].values())))


def _elsewhere(layer: str, indexes: list[tuple[Path, dict[str, LayerIndex]]]) -> dict[str, tuple[str, str]]:
    """Files of segments of a layer that indexes list, and their digests, by name."""
    return {
        entry.name: (str(segment_file(folder, layer, entry.name)), entry.sha256)
        for folder, index in reversed(indexes)
        if layer in index
        for entry in index[layer].segments
    }


def _centroids(
    cube: Cube, layer: str, weights: str, folder: Path, indexes: list[tuple[Path, dict[str, LayerIndex]]]
) -> str:
    """Digest of the centroids of a layer, whose file is then in `folder`: those of an index with the same weights."""
    features = cube.array(cube.zones_of(layer)[0], "embedding").shape[-1]
    for other, index in indexes:
        if layer not in index or index[layer].weights != weights:
            continue
        digest = index[layer].centroids
        source = centroids_file(other, layer, digest)
        if source.is_file() and file_digest(source) == digest:
            if read_tensors(source)[0]["centroids"].shape[1] == features:
                write_atomically(centroids_file(folder, layer, digest), source.read_bytes())
                return digest
    array = cube.array(cube.zones_of(layer)[0], "embedding")
    many = segment_shards(array.shards[1], array.chunks[0], features * array.dtype.itemsize)
    across = (min(many * array.shards[1], size) for size in array.shape[1:3])
    data = save({"centroids": fit_centroids(cube, layer, int(np.prod([*across])))})
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(centroids_file(folder, layer, digest), data)
    return digest


# --- one task -------------------------------------------------------------------------------------


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
                    save_file(arrays, temporary)
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
    times = slice(windows[0], windows[-1] + 1)
    vectors: dict[int, list[NDArray[Any]]] = {t: [] for t in windows}
    cells: dict[int, list[NDArray[np.uint32]]] = {t: [] for t in windows}
    for row, column in sorted({(m.row, m.column) for t in windows for m in task.members[t]}):
        y, x = (slice(at, at + task.side) for at in (task.y + row, task.x + column))
        stored, said = embedding[times, y, x], status[times, y, x]
        for t in windows:
            of_t = said[t - times.start]
            down, across = np.nonzero((of_t == VALID) | (of_t == VALID_INCOMPLETE))
            incomplete = np.where(of_t[down, across] == VALID_INCOMPLETE, INCOMPLETE, 0)
            vectors[t].append(stored[t - times.start][down, across])
            cells[t].append(((down + row) * task.width + across + column + incomplete).astype(np.uint32))
        del stored
    for t in windows:
        yield t, _by_list(vectors.pop(t), cells.pop(t), centroids, (task.height, task.width))


def _by_list(
    parts: list[NDArray[Any]], cells: list[NDArray[np.uint32]], centroids: NDArray[np.int8], shape: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    which = np.concatenate([nearest(as_int8(part), centroids) for part in parts])
    cell = np.concatenate(cells)
    order = np.lexsort((cell & np.uint32(INCOMPLETE - 1), which))
    # into the final array part by part: the vectors are held twice at most
    at = np.empty(len(order), np.int64)
    at[order] = np.arange(len(order))
    vectors = np.empty((len(order), centroids.shape[1]), parts[0].dtype)
    begin = 0
    while parts:
        part = parts.pop(0)
        vectors[at[begin : begin + len(part)]] = part
        begin += len(part)
    cell = cell[order]
    row = np.full(shape[0] * shape[1], ABSENT, np.uint32)
    row[cell & np.uint32(INCOMPLETE - 1)] = np.arange(len(cell), dtype=np.uint32)
    first = np.searchsorted(which[order], np.arange(len(centroids) + 1)).astype(np.int64)
    return {"vectors": vectors, "cell": cell, "first": first, "row": row.reshape(shape)}


def _remove_unlisted(folder: Path, listed: dict[str, LayerIndex]) -> None:
    """Remove files that index.json does not name; temporary ones of others only when they are a day old."""
    names = {folder / "index.json"}
    for layer, index in listed.items():
        names.add(centroids_file(folder, layer, index.centroids))
        names |= {segment_file(folder, layer, entry.name) for entry in index.segments}
    for path in folder.rglob("*"):
        young = path.name.startswith(TEMPORARY_PREFIX) and time.time() - path.lstat().st_mtime < _ABANDONED_S
        if path.is_file() and path not in names and not young:
            path.unlink(missing_ok=True)
