"""Making the vector index of a cube: `<version>.find/` beside it, segment by segment (`cube/segments.py` reads it).

A segment is a fixed block of shards in one window, about a million cells. Its name is the digest of what decides its
bytes: the centroids, the way in which it is made (FIND_VERSION), and the digests of the objects of its shards. So one
rule serves the first build, a build that was killed, a new window and a new version: what has its name is there
already.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir, write_atomically
from embedcube.consolidate.dask import dask_client
from embedcube.consolidate.endings import in_words, results
from embedcube.cube.reader import Cube
from embedcube.cube.segments import (
    LayerIndex,
    centroids_file,
    file_digest,
    find_folder,
    read_index,
    read_tensors,
    segment_file,
    write_index,
)
from embedcube.errors import WorkError
from embedcube.progress import Progress
from embedcube.uses.centroids import fit_centroids
from embedcube.uses.segments import Failure, Made, Member, SegmentTask, make_segments

SEGMENT_CELLS = 1_000_000
"""cells of a segment, about"""

SEGMENT_BYTES = 1 << 28
"""most bytes of vectors of a segment, about: a task holds three times as much"""

_ABANDONED_S = 86_400.0
"""age at which a temporary file of another process is removed"""

Spread = Callable[[list[SegmentTask]], Iterable[list[Made] | Failure]]
"""Runs `make_segments` for each task, here or on workers, and gives the results in any order."""


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


@contextmanager
def spread_for(cube: Cube) -> Iterator[Spread]:
    """Workers as `how.dask` of the cube's campaign asks for; a cube outside of a run folder is indexed here."""
    run = RunDir(cube.path.parents[1])
    if not run.campaign.is_file():
        yield here
        return
    campaign = load_campaign(run.campaign)
    with dask_client(campaign, run) as client:

        def spread(tasks: list[SegmentTask]) -> Iterator[list[Made] | Failure]:
            for result in results(client.map(make_segments, tasks, pure=False), client, campaign, run):
                if isinstance(result, MemoryError):
                    raise in_words(result, campaign)
                yield result

        yield spread


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


def segment_shards(side: int, windows: int, vector_bytes: int) -> int:
    """Shards along one side of a segment, for shards of `side` cells and objects of so many windows."""
    cells = min(SEGMENT_CELLS, SEGMENT_BYTES // vector_bytes) // windows
    return max(1, round(isqrt(cells) / side))


def _tasks(cube: Cube, layer: str, centroids: str, elsewhere: dict[str, tuple[str, str]]) -> Iterator[SegmentTask]:
    """Blocks of shards of a layer, counted from the origin of its lattice, so that a wider region shares them."""
    objects, offset = cube.provenance.digests, cube.offset(cube.zones_of(layer)[0])
    blocks: dict[tuple[str, int, int, int], dict[int, dict[tuple[int, int], int]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for (zone, t, iy, ix), row in cube.provenance.places.items():
        if zone.split("/")[0] == layer:
            array = cube.array(zone, "embedding")
            many = segment_shards(cube.shard_cells(zone), array.chunks[0], array.shape[-1] * array.dtype.itemsize)
            above, left = _shards_before(cube, zone)
            block = (zone, t // array.chunks[0], (above + iy) // many, (left + ix) // many)
            blocks[block][t][iy, ix] = row
    named = ("embedding", "status", *(() if offset is None else ("scale",)))
    digests = objects(sorted(row for block in blocks.values() for window in block.values() for row in window.values()))
    for (zone, *_), windows in sorted(blocks.items()):
        side = cube.shard_cells(zone)
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
                        objects=tuple(digests[row][name] for name in named),
                    )
                    for (iy, ix), row in sorted(window.items())
                )
                for t, window in sorted(windows.items())
            },
            elsewhere=elsewhere,
            offset="" if offset is None else hashlib.sha256(offset.tobytes()).hexdigest(),
        )


def _shards_before(cube: Cube, zone: str) -> tuple[int, int]:
    """Rows and columns of shards between the origin of the zone's lattice and its first shard."""
    what, layer = cube.what, zone.partition("/")[0]
    grid = what.get("layers", {}).get(layer, {}).get("grid") or what.get("grid") or {}
    origin_x, origin_y = grid.get("origin") or (0.0, 0.0)
    a, _, c, _, e, f = cube.group(zone).attrs["spatial:transform"]
    side = cube.shard_cells(zone)
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
        unchanged = source.is_file() and file_digest(source) == digest
        if unchanged and read_tensors(source)[0]["centroids"].shape[1] == features:
            write_atomically(centroids_file(folder, layer, digest), source.read_bytes())
            return digest
    first = cube.zones_of(layer)[0]
    array, side = cube.array(first, "embedding"), cube.shard_cells(first)
    many = segment_shards(side, array.chunks[0], features * array.dtype.itemsize)
    across = (min(many * side, size) for size in array.shape[1:3])
    data = save({"centroids": fit_centroids(cube, layer, int(np.prod([*across])))})
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(centroids_file(folder, layer, digest), data)
    return digest


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
