"""Areas as GeoJSON (RFC 7946) has them."""

import json
from pathlib import Path
from typing import Any


def read_geojson(path: Path) -> dict[str, Any]:
    """All areas of a GeoJSON file as one Polygon or MultiPolygon; a ValueError says what it holds instead."""
    import shapely
    from shapely.geometry import mapping, shape

    try:
        document = json.loads(path.read_text())
        features = document["features"] if document["type"] == "FeatureCollection" else [document]
        shapes = [shape(f["geometry"] if f["type"] == "Feature" else f) for f in features]
        area = shapely.union_all(shapes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"region.geojson: {path} is not GeoJSON: {type(error).__name__}: {error}") from None
    if area.geom_type not in ("Polygon", "MultiPolygon") or area.is_empty:
        raise ValueError(f"region.geojson: {path} holds no area but a {area.geom_type}; write Polygons")
    return dict(json.loads(json.dumps(mapping(area))))
