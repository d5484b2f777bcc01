"""Rasters whose numbers are converted before anything else: what radar and fields look like on an area."""

from collections.abc import Callable

import numpy as np

from embedcube.config import Archive
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.onto import Conversion
from embedcube.raster import RasterReader
from embedcube.scene import Scene
from embedcube.sources.base import Observation


def observe_converted(
    scene: Scene,
    archive: Archive,
    grid: Grid,
    area: PixelArea,
    reader: RasterReader,
    convert_of: Callable[[str], Conversion],
) -> Observation:
    """The bands of a scene, float32, each pixel converted before any is resampled; seen where all have a value.

    Raises:
        CorruptInput, OSError: as `Source.observe` says.
    """
    if scene.verdict:
        raise CorruptInput(scene.verdict)
    values_cyx = reader.read_bands(archive.root, scene.assets, grid, area, archive.resampling_of, convert_of)
    seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
    return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen)
