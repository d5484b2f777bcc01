"""Reading areas from GeoJSON (RFC 7946)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.campaign.readable import readable
from embedcube.printable import printable

_BYTES = 64 << 20
"""largest file; a region of a million corners has less"""


def read_geojson(path: Path) -> dict[str, Any]:
    """All areas of a GeoJSON file as one Polygon or MultiPolygon.

    Raises:
        ValueError: the file is not GeoJSON, is too large, or holds no area.
    """
    import shapely
    from shapely.geometry import mapping, shape

    try:
        document = _parsed(path)
        features = document["features"] if document["type"] == "FeatureCollection" else [document]
        with np.errstate(invalid="ignore"):
            shapes = [shape(f["geometry"] if f["type"] == "Feature" else f) for f in features]
        if not np.isfinite(shapely.get_coordinates(shapes)).all():
            raise ValueError("a corner is not a finite number")
        area = shapely.union_all(shapes)
    except Exception as error:  # whatever stands in it
        words = f"{type(error).__name__}: {printable(error)}"
        raise ValueError(f"region.geojson: {path} is not GeoJSON: {words}") from None
    if area.geom_type not in ("Polygon", "MultiPolygon") or area.is_empty:
        raise ValueError(f"region.geojson: {path} holds no area but a {area.geom_type}; write Polygons")
    return dict(json.loads(json.dumps(mapping(area))))


def _parsed(path: Path) -> Any:
    with readable(path).open("rb") as file:
        data = file.read(_BYTES + 1)
    if len(data) > _BYTES:
        raise ValueError(f"it has more than {_BYTES >> 20} MB")
    return json.loads(data)
