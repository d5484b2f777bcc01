"""The preview of a cube: colours, status and number of acquisitions of every cell, with overviews, as Zarr.

<version>.preview.zarr/            beside the cube
  <layer>/<zone>/                  attributes: `multiscales`, `proj:` and `spatial:` conventions
    0, 1, ...                      levels: 0 has every cell, each other one a half of the rows and columns before it
      rgb     (time, band, y, x)   uint8: the colours of `basis.py`, 1 to 255; 0 is no vector
      status  (time, y, x)         uint8, the flags of the cube
      n_obs   (time, y, x)         uint16
      time, y, x

A map in a browser needs a few of its chunks and no server but one for files: each chunk is a file of its own, so that
even a server without ranges serves it. A cell of an overview is a cell of the level before it (nearest), never a
mixture: colours stand for vectors, and a status has no mean.
"""

import math
import secrets
import shutil
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from embedcube.cube.arrays import COMPRESSION_LEVEL, KEY_SEPARATOR
from embedcube.cube.basis import Basis, fit_basis
from embedcube.cube.conventions import MULTISCALES, PROJ, SPATIAL
from embedcube.cube.encoding import NOT_PROCESSED, STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.listed import NO_MAP
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, naming
from embedcube.printable import listed

SUFFIX = ".preview.zarr"

CHUNK_SIDE = 1024
"""most cells along a side of a chunk: large enough that a cube of 1e8 cells has hundreds of files, not thousands"""

OVERVIEW_SIDE = 512
"""the coarsest level has at most so many cells along its longer side"""

_BLOCK_CELLS = 1 << 23
"""number of cells, over all windows that share chunks, whose colours are held at once"""

_TILE_NUMBERS = 1 << 23
"""number of stored numbers that are read at once"""

_LEAST_FEATURES = 16
"""a cell counts as at least this many numbers, because its colours and status take memory too"""


def preview_store_of(cube: Path) -> Path:
    """Where the preview of a cube lies: beside the version that `cube` is or points to."""
    version = cube.resolve()
    return version.with_name(version.stem + SUFFIX)


def write_preview_store(cube: Cube, store: Path) -> None:
    """Write the preview of all layers, zones and windows to `store`; it replaces an earlier one when it is whole.

    Raises:
        RequestError: no layer has vectors to draw, or all are lists of samples.
    """
    if not cube.maps:
        raise RequestError(f"{cube.address}: nothing to draw: {listed(cube.layers)} {NO_MAP}")
    store.parent.mkdir(parents=True, exist_ok=True)
    temporary = store.with_name(f".tmp-{store.name}.{secrets.token_hex(4)}")
    try:
        with naming(store):
            _write(cube, temporary)
        if store.exists():
            earlier = store.rename(temporary.with_suffix(".earlier"))
            temporary.rename(store)
            shutil.rmtree(earlier)
        else:
            temporary.rename(store)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(cube: Cube, folder: Path) -> None:
    """Write the preview to a folder.

    Raises:
        RequestError: no layer has vectors to draw.
    """
    root: Any = zarr.open_group(folder, mode="w", zarr_format=3)
    root.update_attributes({"title": f"Preview of the embeddings of campaign {cube.campaign}"})
    root.update_attributes({"embedcube:cube": cube.version})
    for layer in cube.maps:
        if basis := fit_basis(cube, layer):
            for zone in cube.zones_of(layer):
                _write_zone(cube, zone, basis, root.create_group(zone))
    if not list(root.group_keys()):
        raise RequestError(f"{cube.address}: no layer has vectors to draw")
    _consolidate(root)


def has_preview(cube: Cube, zone: str) -> bool:
    """Whether there is a preview of this version of a zone beside the cube."""
    return _drawn(cube, zone) is not None


def drawn_colours(
    cube: Cube, zone: str, t: int, y: slice = slice(None), x: slice = slice(None)
) -> NDArray[np.uint8] | None:
    """Colours (y, x, 3) of one window, or of a part, from the preview beside the cube; None where it has none."""
    rgb = _drawn(cube, zone)
    return None if rgb is None else np.moveaxis(np.asarray(rgb[t, :, y, x]), 0, -1)


def _drawn(cube: Cube, zone: str) -> Any:
    """The colours (time, band, y, x) of a zone in the preview beside the cube; None where it has none of this cube."""
    store = preview_store_of(cube.path)
    try:
        root: Any = zarr.open_group(store, mode="r", zarr_format=3)
        rgb = root[f"{zone}/0/rgb"]
    except (FileNotFoundError, KeyError, zarr.errors.GroupNotFoundError):
        return None
    windows, *cells = cube.array(zone, "status").shape
    if root.attrs.get("embedcube:cube") != cube.version or rgb.shape != (windows, 3, *cells):
        return None
    return rgb


def _consolidate(root: Any) -> None:
    """Put the metadata of each zone into its group, and all into the root: a reader of either needs one request."""
    zones = [f"{layer}/{zone}" for layer, group in root.groups() for zone in group.group_keys()]
    with warnings.catch_warnings():
        # zarr-python says that consolidated metadata is its own extension; readers without it ignore it
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        for path in (*zones, None):
            zarr.consolidate_metadata(root.store, path=path, zarr_format=3)


def _write_zone(cube: Cube, zone: str, basis: Basis, group: Any) -> None:
    shapes = level_shapes(cube.array(zone, "status").shape[1:])
    about = cube.group(zone).attrs.asdict()
    attributes = _placed(about, shapes[0]) | {
        "zarr_conventions": [MULTISCALES, PROJ, SPATIAL],
        "multiscales": {"layout": _layout(about, shapes), "resampling_method": "nearest"},
        "embedcube:variance": [round(share, 6) for share in basis.variance.tolist()],
        "embedcube:colours": "principal components 1, 2 and 3 of the vectors as red, green and blue, one basis for the "
        "layer; 0 where there is no vector",
    }
    group.update_attributes(attributes)
    levels = [_create_level(cube, zone, group.create_group(str(k)), shape) for k, shape in enumerate(shapes)]
    _draw(cube, zone, basis, levels[0])
    for finer, coarser in pairwise(levels):
        _thin(finer, coarser)


def level_shapes(cells: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of each level, the finest first."""
    shapes = [cells]
    while max(shapes[-1]) > OVERVIEW_SIDE:
        rows, columns = shapes[-1]
        shapes.append((-(-rows // 2), -(-columns // 2)))
    return shapes


def _placed(about: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Attributes that place `shape` cells over the extent of a zone whose own attributes are `about`."""
    xmin, ymin, xmax, ymax = about["spatial:bbox"]
    attributes = {
        "zarr_conventions": [PROJ, SPATIAL],
        "proj:wkt2": about["proj:wkt2"],
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": about["spatial:bbox"],
        "spatial:shape": list(shape),
        "spatial:transform_type": "affine",
        "spatial:transform": [(xmax - xmin) / shape[1], 0.0, xmin, 0.0, (ymin - ymax) / shape[0], ymax],
        "spatial:registration": "pixel",
    }
    return attributes | ({"proj:code": about["proj:code"]} if about.get("proj:code") else {})


def _layout(about: dict[str, Any], shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """The entries of `multiscales`: each level lies over the same extent, so its cells need not be squares."""
    entries = []
    for k, shape in enumerate(shapes):
        placed = _placed(about, shape)
        entry: dict[str, Any] = {"asset": str(k), "transform": {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}}
        if k:
            finer = shapes[k - 1]
            entry["derived_from"] = str(k - 1)
            entry["transform"]["scale"] = [finer[0] / shape[0], finer[1] / shape[1]]
        entries.append(entry | {name: placed[name] for name in ("spatial:shape", "spatial:transform")})
    return entries


def _create_level(cube: Cube, zone: str, level: Any, shape: tuple[int, int]) -> Any:
    windows = len(cube.windows(zone))
    level.update_attributes(_placed(cube.group(zone).attrs.asdict(), shape))
    a, _, c, _, e, f = level.attrs["spatial:transform"]
    _coordinate(level, "x", c + a * (np.arange(shape[1]) + 0.5), {"axis": "X"})
    _coordinate(level, "y", f + e * (np.arange(shape[0]) + 0.5), {"axis": "Y"})
    starts = np.array([int(window.start.timestamp()) for window in cube.windows(zone)], np.int64)
    units = {"units": "seconds since 1970-01-01T00:00:00Z", "calendar": "proleptic_gregorian"}
    _coordinate(level, "time", starts, {"axis": "T", "long_name": "start of the window"} | units)
    side = _chunk_side(cube, zone)
    flags = {"flag_values": list(range(len(STATUS_MEANINGS))), "flag_meanings": " ".join(STATUS_MEANINGS)}
    made: tuple[tuple[str, tuple[int, ...], str, int, dict[str, Any]], ...] = (
        ("rgb", (3,), "uint8", 0, {"long_name": "colours of the vectors; 0 is no vector"}),
        ("status", (), "uint8", NOT_PROCESSED, {"long_name": "why a cell holds a vector or none"} | flags),
        ("n_obs", (), "uint16", 0, {"long_name": "distinct acquisitions with at least one clear pixel in the cell"}),
    )
    for name, bands, dtype, fill, attributes in made:
        level.create_array(
            name,
            shape=(windows, *bands, *shape),
            dtype=dtype,
            chunks=(1, *bands, min(side, shape[0]), min(side, shape[1])),
            fill_value=fill,
            compressors=[ZstdCodec(level=COMPRESSION_LEVEL)],
            chunk_key_encoding={"name": "default", "separator": KEY_SEPARATOR},
            dimension_names=("time", *(("band",) if bands else ()), "y", "x"),
            attributes=attributes,
        )
    return level


def _coordinate(level: Any, name: str, values: NDArray[Any], attributes: dict[str, Any]) -> None:
    level.create_array(name, data=values, chunks=values.shape, dimension_names=(name,), attributes=attributes)


def _chunk_side(cube: Cube, zone: str) -> int:
    """Cells along a side of a chunk: whole chunks of the cube, so that none of these is decoded twice."""
    depth, height, *_ = map(int, cube.array(zone, "embedding").chunks)
    most = min(CHUNK_SIDE, math.isqrt(_BLOCK_CELLS // depth))
    return max(1, most // height) * height


def _draw(cube: Cube, zone: str, basis: Basis, level: Any) -> None:
    """Fill the finest level, one of its chunks after the other; windows that share chunks of the cube go together."""
    windows, rows, columns = cube.array(zone, "status").shape
    depth, side = cube.array(zone, "embedding").chunks[0], _chunk_side(cube, zone)
    for t in _steps(windows, depth):
        for y in _steps(rows, side):
            for x in _steps(columns, side):
                status = cube.stored(zone, "status", t, y, x)
                rgb = np.zeros((status.shape[0], 3, *status.shape[1:]), np.uint8)
                for v, u in _tiles(cube, zone, status.shape):
                    region = (t, slice(y.start + v.start, y.start + v.stop), slice(x.start + u.start, x.start + u.stop))
                    rgb[:, :, v, u] = np.moveaxis(_colours(cube, zone, basis, region, status[:, v, u]), -1, 1)
                level["rgb"][t, :, y, x] = rgb
                level["status"][t, y, x] = status
                level["n_obs"][t, y, x] = cube.stored(zone, "n_obs", t, y, x)


def _steps(size: int, step: int) -> Iterator[slice]:
    for first in range(0, size, step):
        yield slice(first, min(first + step, size))


def _tiles(cube: Cube, zone: str, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Rectangles (y, x) of whole chunks, or of whole shards where these are small, that cover `shape`'s cells."""
    array, side = cube.array(zone, "embedding"), cube.shard_cells(zone)
    features = max(array.shape[3], _LEAST_FEATURES)
    depth, height, width = array.chunks[:3]
    if depth * side**2 * array.shape[3] <= _TILE_NUMBERS:
        height = width = side
    _, rows, columns = shape
    across = max(1, _TILE_NUMBERS // (depth * height * width * features)) * width
    if across >= columns:
        height *= max(1, _TILE_NUMBERS // (depth * height * columns * features))
    for y in _steps(rows, height):
        for x in _steps(columns, across):
            yield y, x


def _colours(
    cube: Cube, zone: str, basis: Basis, region: tuple[slice, slice, slice], status: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    valid = (status == VALID) | (status == VALID_INCOMPLETE)
    if not valid.any():
        return np.zeros((*status.shape, 3), np.uint8)
    scale = cube.stored(zone, "scale", *region) if cube.has_scale(zone) else None
    return basis.colours(cube.stored(zone, "embedding", *region), scale, valid, cube.offset(zone))


def _thin(finer: Any, coarser: Any) -> None:
    """Fill a level with the cells of the finer one that lie nearest to the centres of its own."""
    side = coarser["status"].chunks[1:]
    from_rows, from_columns = (
        ((np.arange(few) + 0.5) * many / few).astype(int)
        for few, many in zip(coarser["status"].shape[1:], finer["status"].shape[1:], strict=True)
    )
    for t in range(coarser["status"].shape[0]):
        for y in _steps(len(from_rows), side[0]):
            for x in _steps(len(from_columns), side[1]):
                rows, columns = from_rows[y], from_columns[x]
                region = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
                for name in ("rgb", "status", "n_obs"):
                    block = finer[name][t, ..., *region]
                    coarser[name][t, ..., y, x] = block[..., (rows - rows[0])[:, None], columns - columns[0]]
