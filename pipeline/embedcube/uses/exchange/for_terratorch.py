"""Folders as TerraTorch's EmbeddingGenerationTask writes them, so that its trainers and others' scripts read them.

OUT/layer_00/<stem>_embedding.tif        (feature, y, x) float32, one for each tile of cells and window
OUT/layer_00/<stem>_embedding.parquet    one row for each cell: file_id, embedding, where it lies
OUT/embeddings.pt, patch_ids.pt          tensors for its scikit-learn decoder (labels.pt is the user's)
OUT/configuration_summary.json           its keys, and the digest of the weights beside them
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.run_folder import replacing, write_atomically
from embedcube.cube.chunks import read_box, read_vectors
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.listed import NO_MAP, is_list
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


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Vectors of a square of cells in one window, with a place."""

    stem: str
    vectors: NDArray[np.float32]
    """(y, x, feature); NaN where a cell has none"""
    transform: tuple[float, ...]
    """of GDAL's affine order: a, b, c, d, e, f"""
    wkt: str
    time: datetime


def export_terratorch(
    cube: Cube, out: Path, chosen: Chosen, form: Form, progress: Progress, *, tile: int = TILE, dry_run: bool = False
) -> Exported:
    """Write a folder of tiles, tables or tensors; files that are there are kept, so that it goes on after a crash.

    Tiles without any vector are left out; others have NaN where a cell has none.

    Raises:
        RequestError: several layers are chosen, or no cell has a vector.
    """
    layer = one_layer(cube, chosen)
    if form != "pt" and is_list(zone := cube.zones_of(layer)[0]):
        raise RequestError(f"--as {form}: {zone} {NO_MAP}; --as pt, geoparquet and neuco-csv take samples")
    cells = cells_of(cube, layer, chosen)
    features = int(cube.array(cube.zones_of(layer)[0], "embedding").shape[-1])
    if not cells:
        raise RequestError(f"no cell of layer {layer} with a vector is in what was asked for")
    if dry_run:
        return Exported(files=[out], bytes=cells * features * 4, cells=cells, exact=False)
    out.mkdir(parents=True, exist_ok=True)
    if form == "pt":
        files = _tensors(cube, out, layer, chosen)
    else:
        writer = {"terratorch-tiff": _write_tiff, "terratorch-parquet": _write_parquet}[form]
        suffix = "tif" if form == "terratorch-tiff" else "parquet"
        (out / "layer_00").mkdir(exist_ok=True)
        files = []
        for done, one in enumerate(tiles(cube, layer, chosen, tile), start=1):
            path = out / "layer_00" / f"{one.stem}_embedding.{suffix}"
            if not path.exists():
                writer(one, path)
            files.append(path)
            progress(done, None)
    write_atomically(out / SUMMARY, json.dumps(_summary(cube, layer, out, form, tile), indent=2).encode())
    size = sum(path.stat().st_size for path in files)
    return Exported(files=[*files, out / SUMMARY], bytes=size, cells=cells)


def tiles(cube: Cube, layer: str, chosen: Chosen, side: int) -> Iterator[Tile]:
    """Squares of cells with a vector, counted from the first row and column of each zone, window after window."""
    for one in rectangles(cube, layer, chosen):
        attributes = cube.group(one.zone).attrs
        a, b, c, d, e, f = attributes["spatial:transform"][:6]
        name = one.zone.split("/")[1]
        for t in one.windows:
            start = cube.windows(one.zone)[t].start
            for top in range(one.y.start // side * side, one.y.stop, side):
                for left in range(one.x.start // side * side, one.x.stop, side):
                    rows, columns = attributes["spatial:shape"]
                    if top + side > rows or left + side > columns:
                        # a tile is whole: readers stack tiles of one shape
                        continue
                    y, x = slice(top, top + side), slice(left, left + side)
                    status = read_box(cube, one.zone, "status", slice(t, t + 1), y, x)[0]
                    if not ((status == VALID) | (status == VALID_INCOMPLETE)).any():
                        continue
                    yield Tile(
                        stem=f"{name}_{top:05d}_{left:05d}_{start:%Y%m%dT%H%M%S}",
                        vectors=read_vectors(cube, one.zone, slice(t, t + 1), y, x)[0],
                        transform=(a, b, c + left * a, d, e, f + top * e), wkt=attributes["proj:wkt2"], time=start,
                    )  # fmt: skip


def _write_tiff(tile: Tile, path: Path) -> None:
    """As TerraTorch has it: float32, a band for each number, no compression; tags as it carries them."""
    import rasterio
    from affine import Affine

    bands = np.moveaxis(tile.vectors, -1, 0)
    with (
        replacing(path) as temporary,
        rasterio.open(
            temporary, "w", driver="GTiff", count=bands.shape[0], height=bands.shape[1], width=bands.shape[2],
            dtype="float32", crs=tile.wkt, transform=Affine(*tile.transform), nodata=np.nan,
        ) as file,
    ):  # fmt: skip
        file.write(bands)
        file.update_tags(file_id=tile.stem, time=tile.time.isoformat())


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
        ids += [(name, f"{batch.window.start:%Y-%m-%dT%H:%M:%S}") for name in batch.ids]
    files = [out / "embeddings.pt", out / "patch_ids.pt", out / "ids.csv"]
    for path, tensor in zip(files, (torch.from_numpy(np.concatenate(parts)), torch.arange(len(ids))), strict=False):
        with replacing(path) as temporary:
            torch.save(tensor, temporary)
    with replacing(files[2]) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "time"), *ids])
    return files


def _summary(cube: Cube, layer: str, out: Path, form: str, tile: int) -> dict[str, Any]:
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
        "embedcube": about_cube(cube, (layer,)),
    }
