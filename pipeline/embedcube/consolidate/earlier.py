"""Objects of earlier versions of a cube that may be equal to those of a new one: where they are in each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from embedcube.campaign.parts import PACK
from embedcube.campaign.run_folder import RunDir
from embedcube.consolidate.assemble import Planned
from embedcube.consolidate.stored import layout_of
from embedcube.cube.arrays import ArraySpec, numbers_of
from embedcube.cube.members import Damaged


def with_earlier(objects: list[Planned], run: RunDir) -> list[Planned]:
    """The same objects, each with those of earlier versions that may be equal; the zones' metadata are written."""
    earlier = Earlier(run)
    folders: dict[Path, tuple[Folder, ...]] = {}
    found = []
    for one in objects:
        array = one.target.parent
        if array not in folders:
            folders[array] = earlier.folders(array.parent, one.kind.cube)
        places = (folder.object(one.place) for folder in folders[array])
        found.append(replace(one, earlier=tuple(path for path in places if path is not None)))
    return found


@dataclass(frozen=True)
class Earlier:
    """The finished cubes of a run folder, and the objects that parts have from other cubes."""

    run: RunDir

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        cubes = sorted(path for path in self.run.cubes.glob("*.zarr") if not path.name.startswith("."))
        taken = sorted(path for path in self.run.parts.glob("base/*/*/*") if path.is_dir() and path.name != PACK)
        return (*reversed(cubes), *taken)

    def folders(self, zone: Path, spec: ArraySpec) -> tuple["Folder", ...]:
        """Folders of an array with objects of the same shape, for an array of the zone `zone` of the new cube."""
        return tuple(self._found(zone, spec))

    def _found(self, zone: Path, spec: ArraySpec) -> Iterator["Folder"]:
        layer, name = zone.parts[-2:]
        for root in self._roots:
            array = root / layer / name / spec.name
            moved = _moved(zone, root / layer / name, spec)
            if moved is not None and _alike(array, zone / spec.name):
                yield Folder(array, moved, spec)


@dataclass(frozen=True)
class Folder:
    """An array of an earlier cube."""

    path: Path
    moved: tuple[int, int]
    """rows and columns of objects by which the earlier array begins further"""
    spec: ArraySpec

    def object(self, place: tuple[int, int, int]) -> Path | None:
        """The object at a place of the new array; None where the earlier one does not reach there."""
        t, row, col = place[0], place[1] - self.moved[0], place[2] - self.moved[1]
        if min(numbers_of(self.spec.name, (t, row, col), self.spec.axes)) < 0:
            return None
        path = self.path / self.spec.key(t, row, col)
        return path if path.is_file() and not path.is_symlink() else None


def _alike(one: Path, other: Path) -> bool:
    """Whether two arrays have objects of the same layout."""
    try:
        return layout_of(one) == layout_of(other)
    except Damaged:
        return False


def _moved(zone: Path, earlier: Path, spec: ArraySpec) -> tuple[int, int] | None:
    """Rows and columns of objects from where a zone begins to where an earlier one does; None where between them."""
    try:
        new, old = (_origin(path) for path in (zone, earlier))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if new is None or old is None:
        return (0, 0) if new == old else None
    (a, _, left, _, e, top), (_, _, old_left, _, _, old_top) = new, old
    rows, cols = (old_top - top) / (e * spec.shard[1]), (old_left - left) / (a * spec.shard[2])
    whole = round(rows), round(cols)
    return whole if max(abs(rows - whole[0]), abs(cols - whole[1])) < 1e-6 else None


def _origin(zone: Path) -> Any:
    """The transform of a zone; None of a list of samples."""
    return json.loads((zone / "zarr.json").read_bytes())["attributes"].get("spatial:transform")
