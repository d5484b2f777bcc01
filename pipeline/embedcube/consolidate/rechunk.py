"""Merging several windows of one place into one object of the cube, for readers of time series."""

import hashlib
from collections.abc import Mapping
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

    @property
    def name(self) -> str:
        """Zone and place: the same in every start."""
        return f"{self.target.parent.name}/{self.target.name}/{self.place}"

    def paths(self, specs: tuple[ArraySpec, ...]) -> tuple[Path, ...]:
        """Paths of the objects of these arrays in the cube."""
        return tuple(self.target / spec.name / spec.key(*self.place) for spec in specs)


def rechunk(
    series: Series, known: Mapping[str, str], sources: tuple[ArraySpec, ...], targets: tuple[ArraySpec, ...]
) -> Mapping[str, str]:
    """Write the objects of a series and return their SHA-256 by array; empty for an array of fill values only.

    `known` are the digests that an interrupted start has noted: objects with these bytes are not made again. The
    objects read are verified first. Memory holds one decoded series, and nothing else.

    Raises:
        WorkError: an object differs from its record.
    """
    paths = dict(zip((spec.name for spec in targets), series.paths(targets), strict=True))
    if known and all(known.get(name) == digest_of(path) for name, path in paths.items()):
        return known
    decoder = ShardDecoder(sources)
    values = {spec.name: np.full(spec.shard, spec.fill, dtype=spec.dtype) for spec in targets}
    for t, part, objects in series.members:
        stored = {one.array: read_verified(part, one) if one.path else None for one in objects}
        for name, window in decoder.decode(stored).items():
            values[name][t] = window[0]
    digests = {}
    for name, data in ShardEncoder(targets).encode(values).items():
        digests[name] = ""
        if data is None:
            paths[name].unlink(missing_ok=True)
            continue
        with replacing(paths[name]) as temporary:
            temporary.write_bytes(data)
        paths[name].chmod(0o444)
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def digest_of(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
