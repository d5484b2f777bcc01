"""Merging several windows of one place into one object of the cube, for readers of time series."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedcube.campaign.parts import StoredObject, read_verified
from embedcube.campaign.run_folder import replacing
from embedcube.cube.arrays import ArraySpec, ShardDecoder, ShardEncoder


@dataclass(frozen=True, kw_only=True)
class Series:
    """The shards that become one object in each array of a zone."""

    members: tuple[tuple[int, Path, tuple[StoredObject, ...]], ...]
    """for each shard its index on the time axis of the object, its part, and its objects"""
    target: Path
    """path of the zone in the cube"""
    place: tuple[int, int, int]
    """place of the object: chunk of windows, shard row, shard column"""


def rechunk(series: Series, sources: tuple[ArraySpec, ...], targets: tuple[ArraySpec, ...]) -> int:
    """Write the objects of a series and return their number; the objects read are verified first.

    Memory holds one decoded series, and nothing else.

    Raises:
        WorkError: an object differs from its record.
    """
    specs = {spec.name: spec for spec in targets}
    paths = {name: series.target / name / spec.key(*series.place) for name, spec in specs.items()}
    if all(path.exists() for path in paths.values()):
        return 0  # an earlier start of this job wrote them
    decoder = ShardDecoder(sources)
    values = {spec.name: np.full(spec.shard, spec.fill, dtype=spec.dtype) for spec in targets}
    for t, part, objects in series.members:
        stored = {one.array: read_verified(part, one) if one.path else None for one in objects}
        for name, window in decoder.decode(stored).items():
            values[name][t] = window[0]
    written = 0
    for name, data in ShardEncoder(targets).encode(values).items():
        if data is not None:
            with replacing(paths[name]) as temporary:
                temporary.write_bytes(data)
            paths[name].chmod(0o444)
            written += 1
    return written
