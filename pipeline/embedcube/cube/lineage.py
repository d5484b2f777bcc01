"""Lineage: the shards and cells that a scene fed, from the provenance of a cube alone."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.listed import is_list
from embedcube.cube.provenance import Provenance
from embedcube.cube.store import CubeStore
from embedcube.errors import RequestError
from embedcube.printable import listed, printable

NO_BOUNDS = (np.nan,) * 4
"""Bounds of a shard of samples."""


@dataclass(frozen=True, kw_only=True)
class KnownScene:
    """A scene that a cube or an inventory knows."""

    row: int
    """of the inventory"""
    archive: str
    id: str
    time: str
    digest: str
    """SHA-256 over its facts and files"""
    verdict: str
    """why `index` found that it cannot be used; empty for a usable scene"""
    superseded_by: str
    """id of the scene that is used instead; empty where there is none"""

    @property
    def name(self) -> str:
        """Archive and id."""
        return f"{self.archive}/{self.id}"


@dataclass(frozen=True, kw_only=True)
class ShardAt:
    """Where and when a shard is."""

    layer: str
    zone: str
    """name of the grid"""
    t: int
    iy: int
    ix: int
    window: str
    """ISO 8601 interval"""
    bounds: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax in the CRS of the zone; NaN for samples, which lie anywhere"""
    crs: str
    """empty for samples"""

    def __str__(self) -> str:
        return f"{self.layer}/{self.zone} t{self.t} y{self.iy} x{self.ix}"

    def facts(self) -> dict[str, Any]:
        """Its name and numbers, as tables and JSON have them."""
        numbers = {"layer": self.layer, "zone": self.zone, "t": self.t, "iy": self.iy, "ix": self.ix}
        return {"shard": str(self), **numbers, "window": self.window}


@dataclass(frozen=True, kw_only=True)
class SampleAt:
    """A sample of a list."""

    id: str
    lon: float
    """NaN where its place is unknown"""
    lat: float


@dataclass(frozen=True, kw_only=True)
class Fed:
    """A shard that has a scene among those it was made of."""

    at: ShardAt
    recipe: str
    unread: bool
    """whether the scene could not be read for it"""
    of_cells: int
    """cells of the shard"""
    cells: NDArray[np.bool_] | None
    """which cells (y, x) got a pixel of the scene; None before the shard was embedded"""
    samples: tuple[SampleAt, ...] = ()
    """of a list, the sample of each of these cells, row by row"""

    @property
    def count(self) -> int | None:
        """Cells that got a pixel; None before the shard was embedded."""
        return None if self.cells is None else int(self.cells.sum())

    def facts(self) -> dict[str, Any]:
        """The row of a table."""
        cells = {"cells": self.count, "of_cells": self.of_cells}
        ids = {"samples": list(dict.fromkeys(one.id for one in self.samples))} if self.samples else {}
        return self.at.facts() | {"recipe": self.recipe, "unread": self.unread, **cells, **ids}


def scene_in(cube: CubeStore, asked: str) -> KnownScene:
    """The scene of a cube with an id, or with an id that holds `asked`, where only one does.

    Raises:
        RequestError: none does, or several, which are listed.
    """
    # only texts with the name somewhere are parsed, of which there may be a million
    needle = json.dumps(asked.rpartition("/")[2])[1:-1].encode()
    escaped = json.dumps(asked.rpartition("/")[2], ensure_ascii=False)[1:-1].encode()
    texts = enumerate(cube.provenance.blobs("scene"))
    found = ((row, json.loads(text)) for row, text in texts if needle in text or escaped in text)
    digests = cube.provenance.array("scene_digest")
    return chosen(_known(found, digests), asked, cube.address)


def _known(found: Iterable[tuple[int, dict[str, Any]]], digests: NDArray[np.uint8]) -> Iterator[KnownScene]:
    for row, scene in found:
        yield KnownScene(
            row=row, archive=scene["archive"], id=scene["id"], time=scene["time"], digest=bytes(digests[row]).hex(),
            verdict=scene["verdict"], superseded_by=scene["superseded_by"],
        )  # fmt: skip


_LISTED = 4
"""candidates that a message names"""


def chosen(scenes: Iterable[KnownScene], asked: str, where: str) -> KnownScene:
    """The scene whose id, or archive and id, is `asked`; else the only one whose name holds it.

    Raises:
        RequestError: there is none, or there are several.
    """
    near = [scene for scene in scenes if asked in scene.name]
    exact = [scene for scene in near if asked in (scene.id, scene.name)]
    matching = exact or near
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise RequestError(f'{where}: no scene is called "{printable(asked)}", nor has it in its name')
    names = listed([scene.name for scene in matching], _LISTED)
    raise RequestError(f'{where}: {len(matching)} scenes have "{printable(asked)}" in their names; name one of {names}')


def fed_by(cube: CubeStore, scene: int) -> Iterator[Fed]:
    """The shards whose recipes have the scene, given by its row; in the order of the cube's records."""
    provenance = cube.provenance
    links = np.flatnonzero(provenance.array("link_scene") == scene)
    first = provenance.array("link_first")
    rows = np.searchsorted(first, links, side="right") - 1
    places = {row: place for place, row in provenance.places.items()}
    recipes = provenance.array("shard_recipe")
    for link, row in zip(links.tolist(), rows.tolist(), strict=True):
        zone, t, iy, ix = places[row]
        side = cube.shard_cells(zone)
        packed = provenance.contributions(row)[link - int(first[row])]
        _, quarantined = provenance.links(row)
        cells = np.unpackbits(packed, count=side * side).astype(bool).reshape(side, side)
        yield Fed(
            at=shard_at(cube, zone, t, iy, ix),
            recipe=bytes(recipes[row]).hex(),
            unread=bool(quarantined[link - int(first[row])]),
            of_cells=side * side,
            cells=cells,
            samples=tuple(_samples_of(cube, zone, iy, cells)) if is_list(zone) else (),
        )


def _samples_of(cube: CubeStore, zone: str, iy: int, cells: NDArray[np.bool_]) -> Iterator[SampleAt]:
    """The sample of each of some cells (y, x) of a shard of a list."""
    samples, (y, x) = cube.samples(zone), np.nonzero(cells)
    lon, lat = samples.column("lon"), samples.column("lat")
    for number in cube.array(zone, "status").sample(iy * len(cells) + y, x).tolist():
        yield SampleAt(id=samples.ids[number], lon=float(lon[number]), lat=float(lat[number]))


def shard_at(cube: CubeStore, zone: str, t: int, iy: int, ix: int) -> ShardAt:
    """Where and when a shard of a cube is; `zone` is "<layer>/<zone>"."""
    layer, _, name = zone.partition("/")
    window = cube.windows(zone)[t].short
    if is_list(zone):
        return ShardAt(layer=layer, zone=name, t=t, iy=iy, ix=ix, window=window, bounds=NO_BOUNDS, crs="")
    attributes, side = cube.group(zone).attrs, cube.shard_cells(zone)
    a, _, left, _, e, top = attributes["spatial:transform"]
    xmin, xmax = (left + a * side * (ix + step) for step in (0, 1))
    ymin, ymax = (top + e * side * (iy + step) for step in (1, 0))
    return ShardAt(
        layer=layer, zone=name, t=t, iy=iy, ix=ix, window=window, bounds=(xmin, ymin, xmax, ymax),
        crs=attributes["proj:wkt2"],
    )  # fmt: skip


def place_of_shard(provenance: Provenance, asked: str) -> tuple[str, int, int, int]:
    """Zone ("<layer>/<zone>"), window, row and column of the shard that a text names.

    It is written as messages have it, "s2/utm32 t0 y1 x2", also with "/" between ("s2/utm32/t0/y1/x2"), or as the first
    digits of its recipe.

    Raises:
        RequestError: the cube has no such shard, or several recipes begin so.
    """
    words = asked.replace("/", " ").split()
    if len(words) == 5:
        layer, zone, *numbers = words
        digits = [number.removeprefix(letter) for number, letter in zip(numbers, "tyx", strict=True)]
        if all(digit.isdecimal() for digit in digits):
            t, iy, ix = map(int, digits)
            provenance.shard(f"{layer}/{zone}", t, iy, ix)
            return f"{layer}/{zone}", t, iy, ix
    if _is_recipe(asked):
        recipes = provenance.array("shard_recipe")
        rows = [row for row, recipe in enumerate(recipes) if bytes(recipe).hex().startswith(asked.lower())]
        if len(rows) == 1:
            return next(place for place, row in provenance.places.items() if row == rows[0])
        raise RequestError(f"{len(rows)} shards of the cube have a recipe that begins with {asked}")
    zone, t, iy, ix = next(iter(provenance.places))
    raise RequestError(f'"{printable(asked)}" names no shard; write for example --shard "{zone} t{t} y{iy} x{ix}"')


def _is_recipe(text: str) -> bool:
    return len(text) >= 6 and all(letter in "0123456789abcdefABCDEF" for letter in text)
