"""Folders as TerraTorch's EmbeddingGenerationTask writes them, so that its trainers and others' scripts read them.

OUT/layer_00/<stem>_embedding.tif        (feature, y, x) float32, one for each tile of cells and window
OUT/layer_00/<stem>_embedding.parquet    one row for each cell: file_id, embedding, where it lies
OUT/embeddings.pt, patch_ids.pt          tensors for its scikit-learn decoder (labels.pt is the user's)
OUT/configuration_summary.json           its keys, and the digest of the weights beside them
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.readable import readable
from embedcube.campaign.run_folder import replacing, write_atomically
from embedcube.cube.chunks import read_box, read_vectors
from embedcube.cube.encoding import STATUS_MEANINGS, VALID_INCOMPLETE
from embedcube.cube.listed import NO_MAP, is_list
from embedcube.cube.rasters import new_raster
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.progress import Progress
from embedcube.uses.exchange.chosen import Chosen, one_layer, rectangles
from embedcube.uses.exchange.manifest import about_cube
from embedcube.uses.exchange.part import Exported
from embedcube.uses.exchange.rows import batches, cells_of

TILE = 16
"""cells along a side of a tile by default: 256 pixels of tokens of 16"""

Form = Literal["terratorch-tiff", "terratorch-parquet", "pt"]
SUMMARY = "configuration_summary.json"
OUTPUTS = ("layer_00", "embeddings.pt", "patch_ids.pt", "ids.csv")
_OF_THE_MOMENT = ("created_utc", "output_dir")
"""keys of the summary that two exports of one request may differ in"""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Vectors of a square of cells in one window, with a place."""

    stem: str
    vectors: NDArray[np.float32]
    """(y, x, feature); NaN where a cell has none"""
    status: NDArray[np.uint8]
    """(y, x)"""
    transform: tuple[float, ...]
    """of GDAL's affine order: a, b, c, d, e, f"""
    wkt: str
    time: datetime


@dataclass(frozen=True, kw_only=True)
class _Square:
    """Where a tile lies."""

    zone: str
    t: int
    y: slice
    x: slice
    cells: int
    """cells with a vector"""


def export_terratorch(
    cube: Cube, out: Path, chosen: Chosen, form: Form, progress: Progress, *, tile: int = TILE, dry_run: bool = False
) -> Exported:
    """Write a folder of tiles, tables or tensors; tiles that are there are kept, so that it goes on after a crash.

    The summary is written first, and says what was asked for. Tiles without any vector are left out, and so are those
    that reach over the edge of a zone; others have NaN where a cell has none.

    Raises:
        RequestError: several layers are chosen, no whole tile has a vector, or the folder holds what was asked for in
            another way.
    """
    layer = one_layer(cube, chosen)
    if form != "pt" and is_list(zone := cube.zones_of(layer)[0]):
        raise RequestError(f"--as {form}: {zone} {NO_MAP}; --as pt, geoparquet and neuco-csv take samples")
    if form != "pt" and chosen.ids:
        raise RequestError(f"--ids names cells, --as {form} writes whole tiles; choose --bbox, or --as pt, geoparquet")
    squares = [] if form == "pt" else list(_squares(cube, layer, chosen, tile))
    cells = cells_of(cube, layer, chosen) if form == "pt" else sum(one.cells for one in squares)
    features = int(cube.array(cube.zones_of(layer)[0], "embedding").shape[-1])
    if not cells:
        whole = "cell" if form == "pt" else f"whole tile of {tile} x {tile} cells"
        raise RequestError(f"no {whole} of layer {layer} with a vector is in what was asked for"
                           + ("" if form == "pt" else "; choose a smaller --tile"))  # fmt: skip
    summary = _summary(cube, layer, out, form, tile, chosen)
    _check_folder(out, summary)
    if dry_run:
        return Exported(files=[out], bytes=cells * features * 4, cells=cells, exact=False)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / SUMMARY, json.dumps(summary, indent=2).encode())
    files = _tensors(cube, out, layer, chosen) if form == "pt" else _tiles(cube, out, squares, form, progress)
    size = sum(path.stat().st_size for path in files)
    return Exported(files=[*files, out / SUMMARY], bytes=size, cells=cells)


def _check_folder(out: Path, summary: dict[str, Any]) -> None:
    """Refuse a folder with tiles or tensors of another request: they would stay under the new summary."""
    try:
        there = json.loads(readable(out / SUMMARY).read_bytes()) if (out / SUMMARY).exists() else None
    except ValueError:
        there = {}
    names = (*OUTPUTS, SUMMARY)
    if there is None and not any((out / name).exists() for name in names):
        return
    same = isinstance(there, dict) and all(
        there.get(key) == value for key, value in json.loads(json.dumps(summary)).items() if key not in _OF_THE_MOMENT
    )
    if not same:
        raise RequestError(f"{out} holds an export of another cube, layer or choice (its {SUMMARY}); "
                           "write into another folder, or remove this one")  # fmt: skip


def _tiles(cube: Cube, out: Path, squares: Sequence[_Square], form: Form, progress: Progress) -> list[Path]:
    writer, suffix = (_write_tiff, "tif") if form == "terratorch-tiff" else (_write_parquet, "parquet")
    (out / "layer_00").mkdir(exist_ok=True)
    files = []
    for done, one in enumerate(squares, start=1):
        start = cube.windows(one.zone)[one.t].start
        stem = f"{one.zone.split('/')[1]}_{one.y.start:05d}_{one.x.start:05d}_{start:%Y%m%dT%H%M%S}"
        path = out / "layer_00" / f"{stem}_embedding.{suffix}"
        if not path.exists():
            writer(_read(cube, one, stem), path)
        files.append(path)
        progress(done, len(squares))
    return files


def _squares(cube: Cube, layer: str, chosen: Chosen, side: int) -> Iterator[_Square]:
    """Squares of cells with a vector, counted from the first row and column of each zone, window after window."""
    for one in rectangles(cube, layer, chosen):
        rows, columns = cube.group(one.zone).attrs["spatial:shape"]
        for t in one.windows:
            # a tile is whole: readers stack tiles of one shape
            for top in range(one.y.start // side * side, min(one.y.stop, rows - side + 1), side):
                for left in range(one.x.start // side * side, min(one.x.stop, columns - side + 1), side):
                    y, x = slice(top, top + side), slice(left, left + side)
                    if cells := int(cube.valid(one.zone, t, y, x).sum()):
                        yield _Square(zone=one.zone, t=t, y=y, x=x, cells=cells)


def _read(cube: Cube, one: _Square, stem: str) -> Tile:
    attributes, at = cube.group(one.zone).attrs, slice(one.t, one.t + 1)
    a, b, c, d, e, f = attributes["spatial:transform"][:6]
    return Tile(
        stem=stem, vectors=read_vectors(cube, one.zone, at, one.y, one.x)[0],
        status=read_box(cube, one.zone, "status", at, one.y, one.x)[0],
        transform=(a, b, c + one.x.start * a, d, e, f + one.y.start * e), wkt=attributes["proj:wkt2"],
        time=cube.windows(one.zone)[one.t].start,
    )  # fmt: skip


def _write_tiff(tile: Tile, path: Path) -> None:
    """Write a tile as TerraTorch does: float32, a band for each number, no compression, and its tags."""
    from affine import Affine

    bands = np.moveaxis(tile.vectors, -1, 0)
    profile: dict[str, Any] = {
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": "float32",
        "crs": tile.wkt,
        "transform": Affine(*tile.transform),
        "nodata": np.nan,
    }
    with (
        replacing(path) as temporary,
        new_raster(temporary, path, profile) as file,
    ):  # fmt: skip
        file.write(bands)
        incomplete = int((tile.status == VALID_INCOMPLETE).sum())
        file.update_tags(file_id=tile.stem, time=tile.time.isoformat(), cells_valid_incomplete=incomplete)


def _write_parquet(tile: Tile, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    there = np.isfinite(tile.vectors).all(axis=-1)
    y, x = np.nonzero(there)
    a, _, c, _, e, f = tile.transform
    vectors = tile.vectors[there]
    count = len(y)
    table = pyarrow.table({
        "embedding": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1]),
        "file_id": [tile.stem] * count,
        "time": [tile.time.isoformat()] * count,
        "row": y, "column": x,
        "status": [STATUS_MEANINGS[value] for value in tile.status[there].tolist()],
        "center_x": c + (x + 0.5) * a, "center_y": f + (y + 0.5) * e,
        "crs": [tile.wkt] * count,
    })  # fmt: skip
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)


def _tensors(cube: Cube, out: Path, layer: str, chosen: Chosen) -> list[Path]:
    """`embeddings.pt` (cell, feature) and `patch_ids.pt` (cell): the number of each row in `ids.csv`.

    Tensors alone are written: they load with `weights_only=True`.
    """
    import torch

    parts, ids = [], []
    for batch in batches(cube, layer, chosen):
        parts.append(batch.vectors)
        ids += [
            (name, f"{batch.window.start:%Y-%m-%dT%H:%M:%S}", STATUS_MEANINGS[status])
            for name, status in zip(batch.ids, batch.status.tolist(), strict=True)
        ]
    files = [out / "embeddings.pt", out / "patch_ids.pt", out / "ids.csv"]
    for path, tensor in zip(files, (torch.from_numpy(np.concatenate(parts)), torch.arange(len(ids))), strict=False):
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(tensor, file)
    with replacing(files[2]) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "time", "status"), *ids])
    return files


def _summary(cube: Cube, layer: str, out: Path, form: str, tile: int, chosen: Chosen) -> dict[str, Any]:
    """The keys of TerraTorch's summary, and what it does not say: weights, version, licences."""
    features = int(cube.array(cube.zones_of(layer)[0], "embedding").shape[-1])
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "output_dir": str(out.name),
        "output_format": form.removeprefix("terratorch-"),
        "backbone": cube.model(cube.zones_of(layer)[0]),
        "n_layers_saved": 1,
        "layers": [
            {"output_folder_name": "layer_00", "requested_index": -1, "layer_output_shape": [features, tile, tile]}
        ],
        "embedcube": {**about_cube(cube, (layer,)), "asked": {**chosen.asked(), "tile": tile}},
    }
