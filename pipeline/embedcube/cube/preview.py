"""Pictures of a cube: the first three principal components as red, green and blue."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

log = logging.getLogger(__name__)

SAMPLE_CELLS = 20_000
"""cells that the basis is fitted on, spread over the whole cube"""

_STRIPE_NUMBERS = 1 << 24
"""that are decoded at once"""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Principal components of a zone's vectors, and the range of each."""

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    """(3, D)"""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """2nd and 98th percentile of the sample along each component"""

    def colours(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(..., D) -> (..., 3), 1 to 255; 0 where there is no vector."""
        along = (vectors - self.mean) @ self.components.T
        share = np.clip((along - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)
        missing = ~np.isfinite(share)
        share[missing] = 0
        colours: NDArray[np.uint8] = (1 + np.rint(share * 254)).astype(np.uint8)
        colours[missing] = 0
        return colours


def preview(path: Path, folder: Path) -> list[Path]:
    """Draw every zone and window as PNG and GeoTIFF into `folder`; returns the files.

    One basis for all windows of a zone, so that equal colours are equal vectors in all its pictures.
    """
    cube = Cube(path)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for zone in cube.zones:
        try:
            basis = fit_basis(cube, zone)
        except RequestError as error:
            log.warning("%s", error)
            continue
        for t, start in enumerate(cube.group(zone)["time"][...].tolist()):
            name = f"{zone.replace('/', '_')}_{np.datetime64(start, 's').item():%Y%m%dT%H%M}"
            files += _write(cube, zone, _picture(cube, zone, t, basis), folder / name)
    if not files:
        raise RequestError(f"{path}: no layer has vectors to draw")
    return files


def fit_basis(cube: Cube, zone: str) -> Basis:
    """PCA (Pearson 1901) of valid cells from stripes spread over every window; signs fixed, so that it repeats."""
    windows, rows, columns, _ = cube.group(zone)["embedding"].shape
    stripes = [(t, y) for t in range(windows) for y in range(0, rows, max(1, rows // 16))]
    share = max(1, SAMPLE_CELLS // len(stripes))
    rng = np.random.default_rng(0)
    sample = []
    for t, y in stripes:
        vectors = cube.vectors(zone, t, slice(y, y + 1), slice(0, columns))[0]
        vectors = vectors[cube.valid(zone, t, slice(y, y + 1), slice(0, columns))[0]]
        sample.append(vectors[rng.permutation(len(vectors))[:share]])
    cells = np.concatenate(sample).astype(np.float64)
    if len(cells) < 3:
        raise RequestError(f"{cube.path}: {zone} has no vectors to draw")
    mean = cells.mean(axis=0)
    _, _, components = np.linalg.svd(cells - mean, full_matrices=False)
    components = np.pad(components[:3], ((0, max(0, 3 - len(components))), (0, 0)))
    largest = np.abs(components).argmax(axis=1)
    components *= np.where(components[np.arange(3), largest] < 0, -1, 1)[:, None]
    along = (cells - mean) @ components.T
    return Basis(
        mean=mean,
        components=components,
        low=np.percentile(along, 2, axis=0),
        high=np.percentile(along, 98, axis=0),
    )


def _picture(cube: Cube, zone: str, t: int, basis: Basis) -> NDArray[np.uint8]:
    _, rows, columns, dimensions = cube.array(zone, "embedding").shape
    step = max(1, _STRIPE_NUMBERS // (columns * dimensions))
    stripes = []
    for y in range(0, rows, step):
        place = (slice(y, min(y + step, rows)), slice(0, columns))
        vectors = cube.vectors(zone, t, *place)
        vectors[~cube.valid(zone, t, *place)] = np.nan
        stripes.append(basis.colours(vectors))
    return np.moveaxis(np.concatenate(stripes), -1, 0)


def _write(cube: Cube, zone: str, picture_cyx: NDArray[np.uint8], stem: Path) -> list[Path]:
    import warnings

    import rasterio
    from affine import Affine
    from rasterio.errors import NotGeoreferencedWarning

    attributes = cube.group(zone).attrs
    _, rows, columns = picture_cyx.shape
    tif, png = stem.with_suffix(".tif"), stem.with_suffix(".png")
    shape: dict[str, Any] = {"width": columns, "height": rows, "dtype": "uint8"}
    with rasterio.open(
        tif, "w", driver="COG", count=3, nodata=0, compress="deflate",
        crs=attributes["proj:wkt2"], transform=Affine(*attributes["spatial:transform"]), **shape,
    ) as out:  # fmt: skip
        out.write(picture_cyx)
    opaque = np.where((picture_cyx == 0).all(axis=0), 0, 255).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(png, "w", driver="PNG", count=4, **shape) as out:
            out.write(np.concatenate([picture_cyx, opaque[None]]))
    return [tif, png]
