"""Vectors as Parquet: GeoParquet with a row for each cell, and with the columns of Major TOM's embeddings."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.campaign.run_folder import replacing
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.cube.listed import NO_MAP, is_list
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.progress import Progress
from embedcube.uses.exchange.chosen import Chosen, one_layer
from embedcube.uses.exchange.codecs import Fitted, Smaller, fit
from embedcube.uses.exchange.loss import measure, sample_of
from embedcube.uses.exchange.manifest import about_cube
from embedcube.uses.exchange.part import Exported
from embedcube.uses.exchange.rows import Batch, SampleBatch, batches, cells_of

RADIUS_KM = 6378.137
"""of the sphere of Major TOM's grid"""

_ROW_BYTES = 150
"""of a row beside its vector, about: the polygon, names, counts"""


def export_table(
    cube: Cube, out: Path, chosen: Chosen, progress: Progress, *, major_tom: bool = False,
    smaller: Smaller | None = None, dry_run: bool = False,
) -> Exported:  # fmt: skip
    """Write a GeoParquet file with a row for each chosen cell and window that has a vector.

    With `smaller` the column `embedding` has smaller numbers, and the file's metadata the tables that lead back.

    Raises:
        RequestError: several layers are chosen, no cell has a vector, smaller vectors are to be Major TOM's, or there
            are fewer features than asked for.
        WorkError: the layer has too few vectors to measure what smaller ones lose.
    """
    import pyarrow
    from pyarrow import parquet

    layer = one_layer(cube, chosen)
    if major_tom and smaller:
        raise RequestError("--as major-tom holds vectors as float32; --features and --bits go with geoparquet, bundle")
    features = int(cube.array(cube.zones_of(layer)[0], "embedding").shape[-1])
    cells = cells_of(cube, layer, chosen)
    if not cells:
        raise RequestError(f"no cell of layer {layer} with a vector is in what was asked for")
    if major_tom and is_list(zone := cube.zones_of(layer)[0]):
        raise RequestError(f"--as major-tom: {zone} {NO_MAP}; --as geoparquet takes samples")
    if smaller:
        smaller.check(features)
    if dry_run:
        number_bytes = smaller.vector_bytes(features) if smaller else features * 4
        return Exported(files=[out], bytes=cells * (number_bytes + _ROW_BYTES), cells=cells, exact=False)
    fitted = measured = None
    if smaller:
        sample = sample_of(cube, layer)
        fitted, measured = fit(smaller, sample), asdict(measure(sample, smaller))
    columns: Callable[[Any], dict[str, Any]] = _major_tom if major_tom else lambda one: _plain(one, fitted)
    about = {**about_cube(cube, (layer,)), "asked": chosen.asked(), **(_told(fitted, measured) if fitted else {})}
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    done = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        writer = None
        for batch in batches(cube, layer, chosen):
            shapes = batch.geometry()
            own = shapely.total_bounds(shapes)
            bounds = np.r_[np.fmin(bounds[:2], own[:2]), np.fmax(bounds[2:], own[2:])]
            geometry = pyarrow.array(shapely.to_wkb(shapes), pyarrow.binary())
            table = pyarrow.table({**columns(batch), "geometry": geometry})
            if writer is None:
                writer = parquet.ParquetWriter(temporary, table.schema, compression="zstd", compression_level=1)
            writer.write_table(table)
            progress(done := done + len(table), cells)
        assert writer is not None
        # not in the schema: the bounds are known at the end
        kind = "Point" if is_list(cube.zones_of(layer)[0]) else "Polygon"
        writer.add_key_value_metadata({"geo": json.dumps(_geo(bounds, kind)), "embedcube": json.dumps(about)})
        writer.close()
    return Exported(files=[out], bytes=out.stat().st_size, cells=cells,
                    measured={layer: measured} if measured else {})  # fmt: skip


def _geo(bounds: NDArray[np.float64], kind: str) -> dict[str, Any]:
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [kind], "orientation": "counterclockwise"}
    if np.isfinite(bounds).all():
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _told(fitted: Fitted, measured: dict[str, Any] | None) -> dict[str, Any]:
    tables = {name: table.tolist() for name, table in fitted.tables.items()}
    return {"reduced": {**asdict(fitted.asked), "value": fitted.asked.value, **tables}, "measured": measured}


def _lists(values: NDArray[Any]) -> Any:
    import pyarrow

    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])


def _plain(batch: Batch | SampleBatch, fitted: Fitted | None) -> dict[str, Any]:
    count = len(batch)
    stored = {"embedding": batch.vectors} if fitted is None else fitted.encode(batch.vectors)
    return {
        "id": batch.ids,
        "time": np.full(count, batch.window.start.replace(tzinfo=None), "datetime64[ms]"),
        "time_end": np.full(count, batch.window.end.replace(tzinfo=None), "datetime64[ms]"),
        "status": [STATUS_MEANINGS[value] for value in batch.status.tolist()],
        "n_obs": batch.n_obs,
        "embedding": _lists(stored["embedding"]),
        **({"scale": stored["scale"]} if "scale" in stored else {}),
    }


def _major_tom(batch: Batch) -> dict[str, Any]:
    """The columns of the embeddings of Major TOM, and `status`; a product is a window here."""
    lon, lat = batch.centres()
    rows, columns = major_tom_cell(lon, lat)
    names = [f"{_named(r, 'UD')}_{_named(c, 'RL')}" for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]
    left, bottom, right, top = batch.corners.T
    utm = shapely.to_wkt(shapely.box(left, bottom, right, top), rounding_precision=3)
    product = f"{batch.zone}/{batch.window.short}"
    unique = [
        hashlib.sha256(f"{product}/{name}".encode() + vector.tobytes()).hexdigest()
        for name, vector in zip(batch.ids, batch.vectors, strict=True)
    ]
    count = len(lon)
    return {
        "unique_id": unique,
        "embedding": _lists(batch.vectors),
        "timestamp": np.full(count, batch.window.start.replace(tzinfo=None), "datetime64[ms]"),
        "product_id": [product] * count,
        "grid_cell": names,
        "grid_row_u": rows.astype(np.int16),
        "grid_col_r": columns.astype(np.int16),
        "centre_lat": lat.astype(np.float32),
        "centre_lon": lon.astype(np.float32),
        "utm_footprint": utm,
        "utm_crs": [batch.crs or batch.wkt] * count,
        "pixel_bbox": _lists(np.stack([batch.x, batch.y, batch.x + 1, batch.y + 1], axis=1)),
        "status": [STATUS_MEANINGS[value] for value in batch.status.tolist()],
    }


def _named(number: int, letters: str) -> str:
    return f"{abs(number)}{letters[number < 0]}"


def major_tom_cell(lon: NDArray[np.float64], lat: NDArray[np.float64], side_km: float = 10) -> Any:
    """Row and column, counted from the equator and from Greenwich, of the cell of Major TOM's grid of each place.

    Its parallels are `side_km` apart, or a little less, so that they divide a meridian; so are the meridians of each
    row, along the parallel below it. A place on a line belongs to the cell below or left of it.
    """
    height = 180 / math.ceil(math.pi * RADIUS_KM / side_km)
    row = np.ceil(lat / height).astype(np.int64) - 1
    around = 2 * math.pi * RADIUS_KM * np.cos(np.radians(row * height))
    count = np.ceil(around / side_km).astype(np.int64)
    column = np.ceil(lon / (360 / count)).astype(np.int64) - 1
    # of an odd number of columns the last reaches over 180 degrees
    first = -(count // 2)
    return row, np.where(column < first, column + count, column)
