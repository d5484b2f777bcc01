"""Boxes of longitudes and latitudes, also across the antimeridian: west, south, east, north in degrees.

The library `antimeridian` is not used: it takes every edge longer than 180 degrees for one that crosses the
antimeridian, and the fields of a climate archive have such edges without crossing it.
"""

from typing import Any

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax"""

GLOBE: Box = (-180.0, -90.0, 180.0, 90.0)


def width(box: Box) -> float:
    """Degrees from west to east, at most 360; across the antimeridian west may be the larger number."""
    degrees = box[2] - box[0]
    return degrees % 360 if degrees < 360 else 360.0


def in_range(box: Box) -> Box:
    """The same place with longitudes from -180 to 180: across the antimeridian west is the larger number."""
    west, south, east, north = box
    if -180 <= west <= 180 and -180 <= east <= 180:
        return box
    if east - west >= 360:
        return -180.0, south, 180.0, north
    return (west + 180) % 360 - 180, south, (east + 180) % 360 - 180, north


def footprint(box: Box) -> Any:
    """The box as a geometry of shapely for GeoJSON: a polygon, or two on both sides of the antimeridian."""
    import shapely

    west, south, east, north = box
    if west <= east:
        return shapely.box(*box)
    return shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])


def overlaps(box: Box, other: Box) -> tuple[Box, ...]:
    """The parts that two boxes have in common, in the longitudes of `other`; two where `box` lies on both its ends."""
    first, lower, last, upper = other
    south, north = max(box[1], lower), min(box[3], upper)
    parts = []
    west = first + (box[0] - first) % 360 - 360
    while west < last:
        part = (max(west, first), south, min(west + width(box), last), north)
        if part[0] < part[2] and south < north:
            parts.append(part)
        west += 360
    return tuple(parts)


def around(geometry: Any) -> tuple[Box, ...]:
    """Boxes around a geometry in degrees: two where its parts lie on both sides of the antimeridian, else one."""
    west, _, east, _ = geometry.bounds
    if east - west <= 180:
        return (geometry.bounds,)
    boxes = [part.bounds for part in getattr(geometry, "geoms", [geometry])]
    sides = ([box for box in boxes if box[0] + box[2] < 0], [box for box in boxes if box[0] + box[2] >= 0])
    return tuple(_around_boxes(side) for side in sides if side)


def _around_boxes(boxes: list[Box]) -> Box:
    wests, souths, easts, norths = zip(*boxes, strict=True)
    return min(wests), min(souths), max(easts), max(norths)
