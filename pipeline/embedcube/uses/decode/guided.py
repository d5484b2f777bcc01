"""A coarse map on finer pixels: the prediction is upsampled by fine bands, never the vectors.

Around each cell the coarse map is told by the means of the bands (a linear fit over 5 x 5 cells, less what chance would
fit); the fit is applied to the fine bands, and what the mean of the fine pixels of a cell lacks of the cell's own
number is added to them. So the mean over a cell stays what the decoder said.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.readable import readable
from embedcube.campaign.run_folder import replacing
from embedcube.cube.rasters import new_raster
from embedcube.errors import RequestError
from embedcube.printable import printable, printable_path

Floats = NDArray[np.float64]

REACH = 2
"""cells on each side of a cell that its fit looks at"""

_PENALTY = 1e-2
"""of the fit, as a share of the variance of each band"""

_DOUBT = 4.0
"""how many times what chance explains is taken off what the bands explain"""

_OFF = 1e-3


def guided(coarse: Floats, bands: Floats) -> Floats:
    """A coarse map (y, x) on the pixels of `bands` (band, y * factor, x * factor); NaN where either is.

    The mean over the pixels of a cell that the bands have is the cell's number, to 1e-9 of it.
    """
    count = len(bands)
    rows, columns = coarse.shape
    factor = bands.shape[1] // rows
    tiles = bands.reshape(count, rows, factor, columns, factor).transpose(1, 3, 2, 4, 0)
    tiles = tiles.reshape(rows, columns, factor * factor, count)
    seen = np.asarray(np.isfinite(tiles).all(axis=-1))
    pixels = seen.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(seen[..., None], tiles, 0).sum(axis=2) / pixels[..., None]
    there = np.asarray(np.isfinite(coarse) & (pixels > 0))
    slopes = _slopes(coarse, means, there)
    detail = ((tiles - means[:, :, None]) * slopes[:, :, None]).sum(axis=-1)
    smooth = _bilinear(coarse, factor).reshape(rows, factor, columns, factor).transpose(0, 2, 1, 3)
    fine = smooth.reshape(rows, columns, -1) + detail
    fine[~(seen & there[..., None])] = np.nan
    with np.errstate(invalid="ignore"):
        lacking = coarse - np.where(np.isfinite(fine), fine, 0).sum(axis=2) / pixels
    fine = fine + lacking[..., None]
    return np.asarray(fine.reshape(rows, columns, factor, factor).transpose(0, 2, 1, 3)).reshape(bands.shape[1:])


def _slopes(coarse: Floats, means: Floats, there: NDArray[np.bool_]) -> Floats:
    """Slopes (y, x, band) of a linear fit of the coarse map by the means of the bands around each cell."""
    count = means.shape[-1]
    known = np.where(there[..., None], np.concatenate([means, coarse[..., None]], axis=-1), 0.0)
    weight = _around(there.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = _around(known) / weight[..., None]
    products = _around(known[..., :, None] * known[..., None, :]) / np.maximum(weight, 1)[..., None, None]
    spread = products - middle[..., :, None] * middle[..., None, :]
    inner = np.where(np.isfinite(spread), spread, 0.0)
    overall = np.array([np.var(means[there][:, i]) if there.any() else 1.0 for i in range(count)])
    matrix = inner[..., :count, :count] + np.diag(_PENALTY * np.maximum(overall, 1e-12))
    slopes = np.linalg.solve(matrix, inner[..., :count, count][..., None])[..., 0]
    # bands that tell nothing fit a few cells by chance, and their pixels vary more than their means: such slopes shrink
    told = (slopes * inner[..., :count, count]).sum(axis=-1)
    left = np.maximum(inner[..., count, count] - told, 0)
    free = np.maximum(weight - count - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(told > 0, 1 - _DOUBT * left / told * count / free, 0)
    return np.asarray(slopes * np.maximum(kept, 0)[..., None])


def _around(values: Floats) -> Floats:
    """Sum over the cells within REACH of each."""
    pad = [(REACH, REACH), (REACH, REACH)] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, pad)
    rows, columns = values.shape[:2]
    steps = range(2 * REACH + 1)
    return np.asarray(sum(padded[i : i + rows, j : j + columns] for i in steps for j in steps))


def _bilinear(coarse: Floats, factor: int) -> Floats:
    """The coarse map between the centres of cells; a cell without a number is left out of the weights."""
    from embedcube.uses.decode.pixels import interpolated

    return interpolated(coarse[..., None], factor)[..., 0]


def guided_map(coarse: Path, guides: Sequence[Path], out: Path) -> None:
    """Write a fine map of a coarse one and the bands of some rasters that divide its cells.

    Raises:
        RequestError: a raster is of another CRS, does not divide the cells, or lies elsewhere.
    """
    import rasterio
    from affine import Affine

    with rasterio.open(coarse) as file:
        values, tags = file.read(1).astype(np.float64), file.tags()
        bands = [_bands_on(file, path) for path in guides]
        place, crs = file.transform, file.crs
    if len({band.shape[1:] for band in bands}) != 1:
        raise RequestError("--guide: the rasters have pixels of several sizes; warp them onto one grid")
    fine = guided(values, np.concatenate(bands)).astype(np.float32)
    finer = Affine.scale(values.shape[0] / fine.shape[0])
    profile: dict[str, Any] = {
        "height": fine.shape[0],
        "width": fine.shape[1],
        "count": 1,
        "dtype": "float32",
        "nodata": np.nan,
        "crs": crs,
        "transform": place @ finer,
        "compress": "deflate",
        "tiled": True,
    }
    with (
        replacing(out) as temporary,
        new_raster(temporary, out, profile) as file,
    ):  # fmt: skip
        file.write(fine, 1)
        file.update_tags(**tags, guides=", ".join(path.name for path in guides))


def check_guides(guides: Sequence[Path], decoder: Path) -> None:
    """Refuse, before anything is decoded, a guide that is no raster, and a decoder whose maps are not of numbers."""
    from embedcube.uses.decode.file import read_decoder

    for path in guides:
        _opened(path).close()
    task = read_decoder(decoder).about.request.task
    if task != "regression":
        raise RequestError(f"{decoder}: --guide is for a map of numbers (regression); this one is of {task}")


def _opened(path: Path) -> Any:
    """An open raster: a GeoTIFF or JPEG 2000, as a text (VRT) could name other files and servers."""
    from rasterio.errors import RasterioError

    from embedcube.sources.opening import open_raster

    try:
        return open_raster(readable(path), "")
    except RasterioError as error:
        raise RequestError(
            f"--guide {printable_path(path)}: cannot be read as GeoTIFF or JPEG 2000: {printable(error, 200)}"
        ) from None


def _factor_of(coarse: Any, guide: Any, name: str) -> tuple[int, int, int]:
    """Pixels of a raster along a side of a cell, and column and row of its pixel in the first corner of the map.

    Raises:
        RequestError: it is of another CRS, is turned, does not divide the cells, or lies elsewhere.
    """
    cell, pixel = coarse.transform, guide.transform
    if pixel.b or pixel.d or not (pixel.a and pixel.e):
        raise RequestError(f"--guide {name}: its rows do not run along the axes; warp it onto the cells first")
    left, top = (cell.c - pixel.c) / pixel.a, (cell.f - pixel.f) / pixel.e
    factor = round(cell.a / pixel.a)
    pairs = ((left, round(left)), (top, round(top)), (cell.a / pixel.a, factor), (cell.e / pixel.e, factor))
    off = max(abs(number - whole) for number, whole in pairs)
    if guide.crs != coarse.crs or factor < 2 or off > _OFF:
        raise RequestError(
            f"--guide {name}: its pixels of {pixel.a:g} x {-pixel.e:g} in {guide.crs} do not divide the cells of "
            f"{cell.a:g} x {-cell.e:g} in {coarse.crs}; warp it onto them first"
        )
    own, other = guide.bounds, coarse.bounds
    if own.left >= other.right or own.right <= other.left or own.bottom >= other.top or own.top <= other.bottom:
        raise RequestError(f"--guide {name}: it lies beside the map")
    return factor, round(left), round(top)


def _bands_on(coarse: Any, path: Path) -> Floats:
    """Bands (band, y * factor, x * factor) of a raster on the cells of an open map; NaN where it has none."""
    from rasterio.windows import Window

    with _opened(path) as guide:
        factor, left, top = _factor_of(coarse, guide, path.name)
        window = Window(left, top, coarse.width * factor, coarse.height * factor)
        read = guide.read(window=window, boundless=True, masked=True).astype(np.float64)
        return np.where(np.ma.getmaskarray(read), np.nan, read.data)


def guide_all(maps: Sequence[Path], guides: Sequence[Path]) -> list[Path]:
    """Upsample each of some maps of numbers in its place; the coarse one stays beside it as <name>_coarse.tif.

    Raises:
        RequestError: a map is one of classes, or a raster does not fit one of the maps; then all stay as they are.
    """
    import rasterio

    for path in maps:
        with rasterio.open(path) as file:
            if file.dtypes[0] != "float32" or file.count != 1:
                raise RequestError(f"{path}: --guide is for a map of numbers (regression); this one is of classes")
            for guide in guides:
                with _opened(guide) as raster:
                    _factor_of(file, raster, guide.name)
    for path in maps:
        coarse = path.with_stem(f"{path.stem}_coarse")
        path.replace(coarse)
        guided_map(coarse, guides, path)
    return [*maps]
