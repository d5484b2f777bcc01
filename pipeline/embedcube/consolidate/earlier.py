"""Objects of earlier versions of a cube that may be equal to those of a new one: where they are in each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from embedcube.campaign.run_folder import RunDir
from embedcube.consolidate.assemble import Planned
from embedcube.consolidate.stored import metadata_of, object_layout_of
from embedcube.cube.arrays import ArraySpec, numbers_of
from embedcube.cube.members import Damaged


def with_earlier(objects: list[Planned], run: RunDir, base: Path | None) -> list[Planned]:
    """The same objects, each with those of earlier versions that may be equal; the zones' metadata are written.

    `base` is a cube from which the campaign starts.
    """
    earlier = Earlier(run, base)
    folders: dict[Path, tuple[Folder, ...]] = {}
    found = []
    for one in objects:
        array = one.target.parent
        if array not in folders:
            folders[array] = earlier.folders(array.parent, one.kind.cube)
        places = (folder.object(one.place) for folder in folders[array])
        # of several windows in a chunk no record has a digest
        own = () if one.kind.windows > 1 else tuple(path for path in places if path is not None)
        found.append(replace(one, earlier=own))
    return found


@dataclass(frozen=True)
class Earlier:
    """The finished cubes of a run folder and that of its base, and the objects that parts have from other cubes."""

    run: RunDir
    base: Path | None

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        cubes = sorted(path for path in self.run.cubes.glob("*.zarr") if not path.name.startswith("."))
        taken = [folder for part in sorted(self.run.parts.glob("base/*/*")) for folder in _numbered(part)]
        return (*reversed(cubes), *([self.base] if self.base else ()), *taken)

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


def _numbered(part: Path) -> Iterator[Path]:
    """The folders in which a part has files of others; those others may have had them of others."""
    for path in sorted(part.iterdir()) if part.is_dir() else ():
        if path.name.isdecimal() and path.is_dir():
            yield path
            yield from _numbered(path)


@dataclass(frozen=True)
class Folder:
    """An array of an earlier cube."""

    path: Path
    moved: tuple[int, int]
    """rows and columns of objects by which the earlier array begins further"""
    spec: ArraySpec

    def object(self, place: tuple[int, int, int]) -> Path | None:
        """Where the object at a place of the new array would be; None where the earlier one does not reach there."""
        t, row, col = place[0], place[1] - self.moved[0], place[2] - self.moved[1]
        if min(numbers_of(self.spec.name, (t, row, col), self.spec.axes)) < 0:
            return None
        return self.path / self.spec.key(t, row, col)


def _alike(one: Path, other: Path) -> bool:
    """Whether two arrays have objects of the same layout."""
    try:
        return object_layout_of(one) == object_layout_of(other)
    except Damaged:
        return False


def _moved(zone: Path, earlier: Path, spec: ArraySpec) -> tuple[int, int] | None:
    """Rows and columns of objects from where a zone begins to where an earlier one does; None where between them."""
    try:
        new, old = (metadata_of(path / "zarr.json")["attributes"].get("spatial:transform") for path in (zone, earlier))
        if new is None or old is None:  # a list of samples
            return (0, 0) if new == old else None
        (a, _, left, _, e, top), (_, _, old_left, _, _, old_top) = new, old
        rows, cols = (old_top - top) / (e * spec.shard[1]), (old_left - left) / (a * spec.shard[2])
        whole = round(rows), round(cols)
    except (Damaged, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None
    return whole if max(abs(rows - whole[0]), abs(cols - whole[1])) < 1e-6 else None
