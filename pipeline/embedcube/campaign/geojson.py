"""Areas as GeoJSON (RFC 7946) has them."""

import json
from pathlib import Path
from typing import Any

from embedcube.campaign.scene import Box


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


def in_range(bbox: Box) -> Box:
    """The same place with longitudes from -180 to 180: across the antimeridian west is the larger number."""
    west, south, east, north = bbox
    if -180 <= west <= 180 and -180 <= east <= 180:
        return bbox
    if east - west >= 360:
        return -180.0, south, 180.0, north
    return (west + 180) % 360 - 180, south, (east + 180) % 360 - 180, north


def footprint(bbox: Box) -> Any:
    """A polygon, or two of them on both sides of the antimeridian, as GeoJSON has it."""
    import shapely

    west, south, east, north = bbox
    if west <= east:
        return shapely.box(*bbox)
    return shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])
