"""Cubes of any size and content, written without a campaign. They have all that a reader needs; `write_provenance`
adds what the vector index needs."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS

from embedcube.cube.arrays import array_specs, object_key
from embedcube.cube.encoding import VALID, Encoding

FIRST = datetime(2023, 6, 1, tzinfo=UTC)


def create_zone(
    path: Path,
    zone: str,
    shape_tyxf: tuple[int, int, int, int],
    *,
    crs: str = "EPSG:32632",
    side: float = 160.0,
    corner: tuple[float, float] = (400_000.0, 5_600_000.0),
    encoding: Encoding = "int8",
    shard: int = 16,
    chunk_windows: int = 1,
) -> dict[str, Any]:
    """Create the empty arrays of one zone, "<layer>/<zone>". Windows are ten days long; the first begins at FIRST."""
    windows, rows, columns, features = shape_tyxf
    root = zarr.open_group(path, mode="a", zarr_format=3)
    root.update_attributes({"title": "Embeddings of campaign synthetic", "embedcube:what": {}})
    known = CRS.from_user_input(crs)
    left, top = corner
    zone_attributes = {
        "proj:code": ":".join(known.to_authority() or ()),
        "proj:wkt2": known.to_wkt("WKT2_2019"),
        "spatial:transform": [side, 0.0, left, 0.0, -side, top],
        "spatial:shape": [rows, columns],
        "spatial:bbox": [left, top - rows * side, left + columns * side, top],
        "embedcube:backbone": {"name": "random"},
    }
    group = root.require_group(zone)
    group.update_attributes(zone_attributes)
    starts = [int((FIRST + timedelta(days=10 * t)).timestamp()) for t in range(windows + 1)]
    group.create_array("time", data=np.array(starts[:-1]))
    group.create_array("time_bnds", data=np.array([starts[:-1], starts[1:]]).T)
    specs = array_specs(cells=shard, dimensions=features, encoding=encoding, windows=chunk_windows)
    size = (windows, rows, columns)
    return {
        spec.name: spec.create(group.store_path, spec.name, size if len(spec.shard) == 3 else (*size, features))
        for spec in specs
    }


def write_zone(
    path: Path,
    zone: str,
    vectors_tyxf: NDArray[np.float32],
    status_tyx: NDArray[np.uint8] | None = None,
    offset: NDArray[np.float32] | None = None,
    **how: Any,
) -> None:
    """Write one zone with these vectors, as int8 by default; all cells are valid unless `status_tyx` says otherwise.

    With an `offset` (feature) the layer is centred.
    """
    status = np.full(vectors_tyxf.shape[:3], VALID, np.uint8) if status_tyx is None else status_tyx
    arrays = create_zone(path, zone, vectors_tyxf.shape, **how)
    empty = status != VALID
    if offset is not None:
        zarr.open_group(path / zone, mode="a").create_array("offset", data=offset, dimension_names=("feature",))
        vectors_tyxf = vectors_tyxf - offset
    if "scale" in arrays:
        scale = np.abs(vectors_tyxf).max(axis=-1) / 127
        stored = np.rint(vectors_tyxf / scale[..., None])
        stored[empty], scale[empty] = 0, np.nan
        arrays["scale"][...] = scale
    else:
        stored = vectors_tyxf.copy()
        stored[empty] = np.nan
    arrays["embedding"][...] = stored
    arrays["status"][...] = status


def write_provenance(path: Path, weights: str = "ab" * 32) -> None:
    """Write of `provenance/` what the vector index needs: where shards are, and the digests of their objects."""
    cube = zarr.open_group(path, mode="r", zarr_format=3)
    zones = sorted(f"{layer}/{zone}" for layer, group in cube.groups() for zone, _ in group.groups())
    places, records = [], []
    for number, zone in enumerate(zones):
        group: Any = cube[zone]
        windows, rows, columns = group["status"].shape
        depth, shard, _ = group["status"].shards
        for t, iy, ix in np.ndindex(windows, rows // shard, columns // shard):
            objects = []
            for name in group:
                if group[name].ndim >= 3:
                    file = path / zone / name / object_key(name, (t // depth, iy, ix))
                    data = file.read_bytes() if file.exists() else b""
                    digest = hashlib.sha256(data + bytes([t % depth])).hexdigest()
                    objects.append({"array": name, "sha256": digest, "size": len(data)})
            places.append((number, t, iy, ix))
            records.append(json.dumps({"arrays": objects, "counts": {}}).encode())
    provenance = zarr.open_group(path / "provenance", mode="w", zarr_format=3)
    provenance.update_attributes({"zones": zones, "weights": {zone.split("/")[0]: weights for zone in zones}})
    for name, column in zip(("zone", "t", "iy", "ix"), np.array(places, np.int32).T, strict=True):
        provenance.create_array(f"shard_{name}", data=np.ascontiguousarray(column))
    provenance.create_array("shard_record", data=np.frombuffer(b"".join(records), np.uint8))
    provenance.create_array("shard_record_first", data=np.cumsum([0, *map(len, records)]))
