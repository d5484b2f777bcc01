"""Write a small synthetic archive of Sentinel-2, Sentinel-1 and weather, and the campaign that makes a cube of it.

The archive has the faults that real ones have: clouds, edges of swaths, scenes of several processing baselines, and a
corrupt file. Each kind of data has a module beside this one; satellites see the land of `demo_world`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from embedcube.testing.demo_era5 import write_era5
from embedcube.testing.demo_sentinel1 import write_sentinel1
from embedcube.testing.demo_sentinel2 import write_sentinel2
from embedcube.testing.demo_stac import dump

EDITION = 2
"""Edition of the archive. Raise it when items or pixels change: archives of earlier editions are then replaced."""

SEED = 20230801

Kind = Literal["sentinel2", "sentinel1", "era5"]
"""A kind of data: a folder of the archive"""

KINDS: tuple[Kind, ...] = get_args(Kind)

WRITERS: dict[Kind, Callable[[Path, int], None]] = {
    "sentinel2": write_sentinel2,
    "sentinel1": write_sentinel1,
    "era5": write_era5,
}
"""For each kind of data what writes it, with a seed, into a new folder."""

_MARKER = "demo.json"
"""file of the archive that says what it is, and lists the size of every file"""

_FIRST_EDITION = "collection.json"
"""file of the archive in the first edition, which had no marker"""

_FIRST_CAMPAIGN = "e8572fa2a2402e45ca29adef654ddc85f81b0ecf09b754451e8adfea9069d2b2"
"""SHA-256 of the campaign file of the first edition"""

_SCRATCH_PREFIX = ".embedcube-demo-"

_HEAD = """\
# A campaign says WHAT is asked. `how` says how it is computed and never changes a byte of the cube.
# `embedcube schema` describes every key.
campaign: demo

archives:                                             # where the inputs are; paths begin at this file
"""

_ARCHIVES: dict[Kind, str] = {
    "sentinel2": """\
  s2:                                                 # optical images: two tiles, clouds, one corrupt file
    source: sentinel2
    path: archive/sentinel2                           # a folder of STAC Items
    bands: [B02, B03, B04, B08]
    mask: {band: SCL, clear: [4, 5, 6, 7, 11]}        # classes of the scene classification that are kept
""",
    "sentinel1": """\
  s1:                                                 # radar images, terrain-corrected
    source: sentinel1
    path: archive/sentinel1
    bands: [VV, VH]
    resampling: nearest                               # pixels of 20 m are repeated on a grid of 10 m
    options: {values: linear}                         # the files hold power, not decibels
""",
    "era5": """\
  weather:                                            # temperature and rain of each day
    source: era5
    path: archive/era5/2023.nc
    bands: [t2m, tp]
  heights:                                            # the height of the ground, at all times
    source: era5
    path: archive/era5/heights.nc
    bands: [z]
    options: {static: true}
""",
}

_GRID = """
grid: {crs: EPSG:32632, pixel: 10}                    # for layers that have no grid of their own
windows: {start: 2023-06-01, end: 2023-08-01, step: 1 month}

layers:                                               # each one is a group of the cube
"""

_LAYERS: dict[tuple[Kind, ...], str] = {
    ("sentinel2",): """\
  s2_mosaiks:
    archives: [s2]
    backbone: {name: mosaiks, filters: 32}
    chip_px: 130                                      # what the backbone sees at once ...
    halo_px: 1                                        # ... of which 128 px are kept, in
    cell_px: 16                                       # cells of 160 m
    shard_chips: 3
    batch: 4
""",
    ("sentinel1",): """\
  s1_mosaiks:
    archives: [s1]
    grid: {crs: EPSG:32632, pixel: 20}                # the pixels of the radar images
    backbone: {name: mosaiks, filters: 16}
    chip_px: 130
    halo_px: 1
    cell_px: 8                                        # cells of 160 m again
    shard_chips: 3
    batch: 4
""",
    ("sentinel2", "sentinel1"): """\
  s1s2_mosaiks:                                       # both together: radar sees what clouds hide
    archives: [s1, s2]
    backbone: {name: mosaiks, filters: 16}
    chip_px: 130
    halo_px: 1
    cell_px: 16
    shard_chips: 6
    batch: 4
""",
    ("era5",): """\
  era5_eof:
    archives: [weather, heights]
    grid: {crs: EPSG:4326, pixel: 0.25, origin: [-180.125, 90.125]}   # pixels whose centres are the points of ERA5
    backbone: {name: eof, components: 6, standardise: true}
    chip_px: 4                                        # a chip is one cell, of one degree
    halo_px: 0
    cell_px: 4
    shard_chips: 8
""",
}
"""For each kind of layer the data that it needs, and its text"""

_HOW = """
how: {ranks: 2}
"""


def campaign_text(only: Kind | None = None) -> str:
    """Text of the campaign file: of the whole demo, or with the layers that one kind of data is enough for."""
    kinds = set(KINDS if only is None else (only,))
    archives = "".join(text for kind, text in _ARCHIVES.items() if kind in kinds)
    layers = "".join(text for needed, text in _LAYERS.items() if kinds.issuperset(needed))
    return _HEAD + archives + _GRID + layers + _HOW


def write_demo(folder: Path, *, seed: int = SEED, only: Kind | None = None) -> Path:
    """Write the demo's archive and its campaign into a new, empty or earlier demo folder.

    `only` one kind of data makes a smaller demo. A complete archive of the same edition, seed and kinds is kept; any
    other demo archive is replaced as a whole, by rename. A campaign file that has been edited is not changed.

    Returns:
        The path of the campaign file.

    Raises:
        ValueError: the folder holds other files than a demo.
    """
    _refuse_foreign(folder)
    archive, campaign = folder / "archive", folder / "campaign.yaml"
    what = [EDITION, seed, *(KINDS if only is None else (only,))]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=folder) as name:
        scratch = Path(name)
        if not _complete(archive, what):
            _write_archive(scratch / "new", what, seed)
            if archive.exists():
                archive.rename(scratch / "old")
            (scratch / "new").rename(archive)
        if not _edited(campaign):
            (scratch / "campaign.yaml").write_text(campaign_text(only), encoding="utf-8")
            (scratch / "campaign.yaml").rename(campaign)
    return campaign


def _write_archive(archive: Path, what: list[Any], seed: int) -> None:
    archive.mkdir()
    for kind, write in WRITERS.items():
        if kind in what:
            write(archive / kind, seed)
    sizes = {
        str(path.relative_to(archive)): path.stat().st_size for path in sorted(archive.rglob("*")) if path.is_file()
    }
    dump(archive / _MARKER, {"embedcube:demo": what, "bytes": sizes})


def _marker(archive: Path) -> dict[str, Any]:
    """What the archive says of itself; an empty dict for a folder that this module did not write."""
    try:
        found = json.loads((archive / _MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) and "embedcube:demo" in found else {}


def _of_first_edition(archive: Path) -> bool:
    try:
        return bool(json.loads((archive / _FIRST_EDITION).read_text(encoding="utf-8"))["embedcube:demo"])
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return False


def _complete(archive: Path, what: list[Any]) -> bool:
    """Whether the archive is of this edition, seed and kinds, and every file exists with its size."""
    marker = _marker(archive)
    if marker.get("embedcube:demo") != what:
        return False
    try:
        return all((archive / name).stat().st_size == size for name, size in marker["bytes"].items())
    except OSError:
        return False


def _edited(campaign: Path) -> bool:
    """Whether there is a campaign file with another text than this module writes, or the first edition wrote."""
    if not campaign.exists():
        return False
    held = campaign.read_bytes()
    own = {campaign_text(only).encode() for only in (None, *KINDS)}
    return held not in own and sha256(held).hexdigest() != _FIRST_CAMPAIGN


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a new or empty folder for the demo")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    interrupted = any(name.startswith(_SCRATCH_PREFIX) for name in held)
    archive = folder / "archive"
    if held and not interrupted and not _marker(archive) and not _of_first_edition(archive):
        some = ", ".join(held[:3])
        raise ValueError(f"{folder} holds other things ({some}) and no demo; name a new or empty folder")
