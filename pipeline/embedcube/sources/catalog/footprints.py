"""Whether the files of a scene lie where its other files and its catalogue say.

A damaged header moves or stretches the pixels of one file, and no decoder notices.
"""

import math
from collections.abc import Callable, Sequence

from embedcube.campaign.boxes import Box, overlaps, width
from embedcube.campaign.scene import Asset
from embedcube.errors import CorruptInput
from embedcube.sources.catalog.products import StatedRaster

_SHARED = 0.5
"""share of the smaller box that a file and its catalogue must have in common: catalogues state boxes around the data,
which are smaller than a tile, and files may be cut out of the image that a catalogue describes"""

_LARGER_KM = 300.0
"""how much wider or higher a file may be than the box that its catalogue states, which may be around a few pixels"""

_DEGREE_KM = 111.32
"""kilometres of a degree of latitude"""

_SAME_SIZE, _OTHER_SIZE = 0.5, 1.0
"""how far apart the edges of two files may be, in pixels of the coarser one: for pixels of one size, and of two. A
place that is cut out of bands of 10 m and of 60 m is rounded to whole pixels of each"""


def refuse_apart(
    assets: Sequence[Asset], stated: Box | None, raster: StatedRaster | None, degrees: Callable[[str, Box], Box]
) -> None:
    """Refuse files that do not cover one place, or not the place that their catalogue states (degrees).

    Files of one CRS must have the same edges. Files of two, and a file and its catalogue, must have half of the smaller
    box in common; and the file must not be much larger than its catalogue says. A box counts for nothing where the same
    catalogue states a `raster` that lies elsewhere, or where the file does. `degrees` converts bounds in a CRS
    to degrees.

    Raises:
        CorruptInput: with both places.
    """
    for asset in assets[1:]:
        _refuse_other_place(assets[0], asset, degrees)
    if assets and stated is not None:
        place = degrees(assets[0].crs, assets[0].bounds)
        apart = not _overlap(place, stated) or _much_larger(place, stated)
        if apart and not (raster and _contradicts(raster, stated, place, degrees)):
            raise CorruptInput(
                f"{assets[0].band}: {assets[0].path} lies at {_text(place)} by its header, "
                f"its catalogue says {_text(stated)} (degrees)"
            )


def _refuse_other_place(one: Asset, other: Asset, degrees: Callable[[str, Box], Box]) -> None:
    if one.crs != other.crs:
        places = [degrees(asset.crs, asset.bounds) for asset in (one, other)]
        if _overlap(*places):
            return
        unit = "degrees"
    else:
        places = [one.bounds, other.bounds]
        sizes = [max(map(abs, asset.transform[:2])) for asset in (one, other)]
        pixels = _SAME_SIZE if abs(sizes[0] - sizes[1]) < 1e-6 * max(sizes) else _OTHER_SIZE
        if all(abs(a - b) <= pixels * max(sizes) for a, b in zip(*places, strict=True)):
            return
        unit = one.crs
    raise CorruptInput(
        f"its bands lie at different places: {one.band} ({one.path}) at {_text(places[0])}, "
        f"{other.band} ({other.path}) at {_text(places[1])} ({unit})"
    )


def _contradicts(raster: StatedRaster, box: Box, place: Box, degrees: Callable[[str, Box], Box]) -> bool:
    """Whether a catalogue states a raster that is not at its box: at the file, elsewhere, or nowhere on the Earth."""
    try:
        own = degrees(raster.crs, raster.bounds)
    except ValueError:
        return True
    return _overlap(own, place) or not _overlap(own, box)


def _overlap(one: Box, other: Box) -> bool:
    """Whether two boxes in degrees have a large part of the smaller one in common."""
    eastward = (other[0], other[1], other[0] + width(other), other[3])
    shared = sum(width(part) * (part[3] - part[1]) for part in overlaps(one, eastward))
    smaller = min(width(box) * (box[3] - box[1]) for box in (one, other))
    return shared >= _SHARED * smaller


def _much_larger(one: Box, other: Box) -> bool:
    """Whether a box in degrees is hundreds of kilometres wider or higher than another."""
    (width_km, height_km), (other_width_km, other_height_km) = (
        (width(box) * math.cos(math.radians((box[1] + box[3]) / 2)) * _DEGREE_KM, (box[3] - box[1]) * _DEGREE_KM)
        for box in (one, other)
    )
    return width_km - other_width_km > _LARGER_KM or height_km - other_height_km > _LARGER_KM


def _text(box: Box) -> str:
    return " ".join(f"{edge:.10g}" for edge in box)
