"""Reading areas from GeoJSON (RFC 7946)."""

import json
from pathlib import Path
from typing import Any

_BYTES = 64 << 20
"""largest file; a region of a million corners has less"""


def read_geojson(path: Path) -> dict[str, Any]:
    """All areas of a GeoJSON file as one Polygon or MultiPolygon.

    Raises:
        ValueError: the file is not GeoJSON, or holds no area.
    """
    import shapely
    from shapely.geometry import mapping, shape

    try:
        document = _parsed(path)
        features = document["features"] if document["type"] == "FeatureCollection" else [document]
        shapes = [shape(f["geometry"] if f["type"] == "Feature" else f) for f in features]
        area = shapely.union_all(shapes)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        shapely.errors.ShapelyError,
    ) as error:
        raise ValueError(f"region.geojson: {path} is not GeoJSON: {type(error).__name__}: {error}") from None
    if area.geom_type not in ("Polygon", "MultiPolygon") or area.is_empty:
        raise ValueError(f"region.geojson: {path} holds no area but a {area.geom_type}; write Polygons")
    return dict(json.loads(json.dumps(mapping(area))))


def _parsed(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(_BYTES + 1)
    if len(data) > _BYTES:
        raise ValueError(f"it has more than {_BYTES >> 20} MB")
    return json.loads(data)
