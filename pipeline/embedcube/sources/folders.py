"""Plain folders: one raster for each band, named after the band, or after what it belongs to and the band.

<name>/VV.tif, VH.tif               SSL4EO-S12
<name>_VV.tif, <name>_VH.tif        BigEarthNet, HyP3
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedcube.sources.products import File, Names, files_below

_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rasters of one name."""

    name: str
    folder: Path
    files: dict[str, File]
    """of the wanted bands that there are, in the order they are wanted"""
    missing: dict[str, str]
    """of the other wanted bands, why there is no file"""


def groups_below(root: Path, names: Names) -> Iterator[Group]:
    """The rasters below `root` by what they are named after, in a fixed order; others do not count."""
    found: dict[tuple[Path, str], dict[str, File]] = defaultdict(dict)
    for path in files_below(root, "*"):
        if path.suffix.lower() in _SUFFIXES and (called := _name_and_band(path, names)):
            name, band = called
            found[path.parent, name][band] = File(path=path)
    for (folder, name), files in sorted(found.items()):
        yield Group(
            name=name,
            folder=folder,
            files={band: files[band] for band in names if band in files},
            missing={band: f"{name} has no file of this band" for band in names if band not in files},
        )


def _name_and_band(path: Path, names: Names) -> tuple[str, str] | None:
    """`<band>` in a folder of the name, or `<name>_<band>`."""
    prefix, _, last = path.stem.rpartition("_")
    for band, known in names.items():
        if path.stem.lower() in known:
            return path.parent.name, band
        if prefix and last.lower() in known:
            return prefix, band
    return None
