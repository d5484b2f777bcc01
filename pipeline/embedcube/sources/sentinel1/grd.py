"""Sentinel-1 GRD in SAFE folders: calibrated by xarray-sentinel, geocoded by sarsen onto the pixels of the grid.

The values are sigma nought from the product's own table, as linear power. A pixel is looked up at the range and Doppler
of its position and height. Radiometry is not corrected for slopes, and thermal noise is not removed.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedcube.campaign.boxes import Box
from embedcube.campaign.resampling import Method
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.changed import change_of
from embedcube.sources.reader import RasterReader, judge_missing
from embedcube.sources.resample import Pixels
from embedcube.sources.sentinel1.safe import compare_image, files_of, refuse_other_files

SOFTWARE = ("sarsen", "scipy", "xarray", "xarray-sentinel")
"""Packages that turn a product's numbers into power on the grid"""

PROCESSING = (
    "sigma nought by the product's table (xarray-sentinel), geocoded by range and Doppler on the heights of the DEM "
    "(sarsen), not flattened, thermal noise left in"
)

_BLOCK = 128
"""pixels along a side of a block that is geocoded at once. sarsen's iteration stops for all pixels of a call together,
so each result depends on the others, within a metre: blocks lie on the grid, and are geocoded whole for any area"""

_PIECE = 512
"""pixels along a side of a piece of an image that is read at once, at least"""

_LANE, _DEM_LANE = 0, 1
"""lanes of the reader: one for all images, because the XML schemas of xarray-sentinel are not thread-safe"""

MOST_POWER = 1e6
"""largest power that is believed, 60 dB: the strongest reflectors have some 40 dB"""

_DEGREE_M = 111_320.0
"""metres in a degree of latitude"""


def can_geocode() -> bool:
    """Whether the extra `s1-safe` is installed."""
    return find_spec("sarsen") is not None and find_spec("xarray_sentinel") is not None


def observe_geocoded(scene: Scene, archive: Archive, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
    """Read the power of a scene's images on an area; seen where all bands have power. The last asset is the DEM.

    Where the grid is coarser than the image, a pixel is the mean power of points as far apart as the image's pixels.

    Raises:
        CorruptInput, OSError: see `Source.observe`.
    """
    *images, dem = scene.assets
    radar = _Images(archive.root, images, reader, [archive.resampling_of(image.band) for image in images])
    values_cyx = np.full((len(images), area.rows, area.cols), np.nan, dtype=np.float32)
    times = max(1, round(_metres(grid) / radar.spacing_m()))
    fine = replace(grid, pixel=grid.pixel / times)
    side = max(1, _BLOCK // times)
    boxes = scene.boxes_in(grid)
    for block in _blocks(area, side):
        if not any(_meet(grid.bounds(block), box) for box in boxes):
            continue
        places = PixelArea(row=block.row * times, col=block.col * times, rows=side * times, cols=side * times)
        heights = reader.submit(archive.root / dem.path, dem, fine, places, "bilinear", _DEM_LANE, _as_height)
        power_cyx = radar.power(fine, places, heights.result())
        mean_cyx = power_cyx.reshape(len(images), side, times, side, times).mean(axis=(2, 4))
        rows, cols = _common(area.row, area.rows, block.row, side), _common(area.col, area.cols, block.col, side)
        values_cyx[:, rows[0], cols[0]] = mean_cyx[:, rows[1], cols[1]]
    for image, power_yx in zip(images, values_cyx, strict=True):
        if (power_yx > MOST_POWER).any():
            raise CorruptInput(f"{image.band}: {image.path} has power that is no backscatter (more than 60 dB)")
    seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
    return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen)


def _as_height(pixels: Pixels) -> Pixels:
    return pixels.astype(np.float32)


def _metres(grid: Grid) -> float:
    return grid.pixel * _DEGREE_M if grid.geographic else grid.pixel


def _blocks(area: PixelArea, side: int) -> Iterator[PixelArea]:
    """The blocks of the grid that overlap an area."""
    for row in range(area.row // side * side, area.row + area.rows, side):
        for col in range(area.col // side * side, area.col + area.cols, side):
            yield PixelArea(row=row, col=col, rows=side, cols=side)


def _common(first: int, count: int, other: int, side: int) -> tuple[slice, slice]:
    """The overlap of an area and a block along one axis, as slices of the area and of the block."""
    low, high = max(first, other), min(first + count, other + side)
    return slice(low - first, high - first), slice(low - other, high - other)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Images:
    """The images of a scene; every call runs in the reader's thread for them."""

    def __init__(self, root: Path, images: list[Asset], reader: RasterReader, methods: list[Method]) -> None:
        self._root = root
        self._images = images
        self._reader = reader
        self._methods = methods

    def spacing_m(self) -> float:
        """Spacing of the images' pixels in range (m)."""
        spacing: float = self._run(lambda acquisition: acquisition.spacing_m)
        return spacing

    def power(self, grid: Grid, places: PixelArea, heights_yx: Pixels) -> Pixels:
        """Power of each band on `places`: (band, y, x) float32, NaN where there is none."""
        power: Pixels = self._run(lambda acquisition: acquisition.power(grid, places, heights_yx, self._methods))
        return power

    def _run(self, look: "Callable[[_Acquisition], Any]") -> Any:
        def opened() -> _Acquisition:
            return _Acquisition(self._root, self._images)

        def judged() -> CorruptInput | OSError:
            return _judge(self._root, self._images, look)

        key = tuple(self._root / image.path for image in self._images)
        return self._reader.run(_LANE, key=key, opened=opened, decode=look, judged=judged).result()


def _judge(root: Path, images: list[Asset], look: "Callable[[_Acquisition], Any]") -> CorruptInput | OSError:
    """Why images could not be decoded: wrong bytes (CorruptInput) or a failure that may pass (OSError).

    As in `reader.judge`, all bytes are read without a decoder, then decoded again: if that fails, the bytes are wrong.
    """
    name = images[0].path
    for image in images:
        path = root / image.path
        try:
            # first: to read a FIFO, which has no bytes, would wait for ever
            if (size := path.stat().st_size) != image.size:
                return CorruptInput(f"{image.band}: {image.path} has {size} bytes, {image.size} when it was indexed")
            _read_through(path)
            for text in files_of(path.parents[1], image.band)[1:]:
                _read_through(text)
        except CorruptInput as missing:
            return missing
        except FileNotFoundError as missing:
            return judge_missing(path, image.band, image.path, missing)
        except OSError as passing:
            return passing
    try:
        with closing(_Acquisition(root, images)) as acquisition:
            look(acquisition)
    except (OSError, ValueError) as error:
        return CorruptInput(f"{name} does not decode: {' '.join(str(error).split())}")
    return OSError(f"{name} could not be read whole, though its bytes are right")


def _read_through(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


class _Acquisition:
    """The open images of one SAFE folder, and the orbit of the satellite."""

    def __init__(self, root: Path, images: list[Asset]) -> None:
        """Raises a ValueError where the libraries cannot decode the files."""
        from sarsen import Sentinel1SarProduct
        from sarsen.orbit import OrbitPolyfitInterpolator

        for image in images:
            path = root / image.path
            if (status := path.stat()).st_size != image.size:
                raise ValueError(f"{status.st_size} bytes")
            if other := change_of(path, image, status, compare_image):
                raise ValueError(other)
        try:
            for image in images:
                refuse_other_files(root / image.path, image.band, _group(image))
            # {} keeps the chunks of `_pieces`
            self._products = [
                Sentinel1SarProduct(str((root / image.path).parents[1]), _group(image), {}, _pieces(image))
                for image in images
            ]
            self._images = [product.measurement["measurement"] for product in self._products]
            self._tables = [product.calibration["sigmaNought"] for product in self._products]
            self._orbit = OrbitPolyfitInterpolator.from_position(self._products[0].state_vectors())
            self.spacing_m = float(self._images[0].attrs["range_pixel_spacing"])
        except OSError:
            raise
        except Exception as error:  # on wrong bytes the parsers may raise anything
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close the images."""
        for image in self._images:
            image.close()

    def power(self, grid: Grid, places: PixelArea, heights_yx: Pixels, methods: list[Method]) -> Pixels:
        """Power of each band on `places`: (band, y, x) float32, NaN where there is none."""
        import xarray
        from sarsen.apps import simulate_acquisition
        from sarsen.scene import convert_to_dem_ecef

        known = np.isfinite(heights_yx)
        result = np.full((len(self._images), *heights_yx.shape), np.nan, dtype=np.float32)
        if not known.any():
            return result
        x, y = grid.centres(places, 1)
        dem = xarray.DataArray(np.where(known, heights_yx, 0), coords={"y": y, "x": x}, dims=("y", "x"))
        ecef = convert_to_dem_ecef(dem, source_crs=grid.crs)
        acquired = simulate_acquisition(ecef, self._orbit, ("azimuth_time", "slant_range_time"))
        for band, method in enumerate(methods):
            result[band] = np.where(known, self._look_up(band, acquired, method), np.nan)
        return result

    def _look_up(self, band: int, acquired: Any, method: Method) -> Pixels:
        """Power of a band at the range and Doppler of the points in `acquired`."""
        from xarray_sentinel import calibrate_intensity

        image, when = self._images[band], acquired.azimuth_time
        far = self._products[band].slant_range_time_to_ground_range(when, acquired.slant_range_time)
        if not np.isfinite(far).any():
            return np.full(far.shape, np.nan)
        around = {"azimuth_time": _around(image.azimuth_time, when), "ground_range": _around(image.ground_range, far)}
        numbers = image.isel(around).compute(scheduler="synchronous")
        # 0 means outside of the swath; it becomes no data before pixels are interpolated
        power = calibrate_intensity(numbers.where(numbers > 0), self._tables[band]).drop_vars(["line", "pixel"])
        kernel: Literal["linear", "nearest"] = "nearest" if method == "nearest" else "linear"
        return np.asarray(power.interp(azimuth_time=when, ground_range=far, method=kernel).values)


def _around(coordinates: Any, points: Any) -> slice:
    """The pixels along an image's axis that hold all points, two pixels wider for the kernel."""
    low, high = np.searchsorted(coordinates.values, [points.min().values, points.max().values])
    return slice(max(0, int(low) - 2), int(high) + 2)


def _group(image: Asset) -> str:
    """xarray-sentinel's name of an image, from the file's name: s1a-iw-grd-vv-... is IW/VV."""
    _, swath, _, polarisation, *_ = Path(image.path).name.upper().split("-")
    return f"{swath}/{polarisation}"


def _pieces(image: Asset) -> dict[str, dict[str, int]]:
    """Chunks in which xarray-sentinel reads an image: whole blocks of the file, which may be as small as a line."""
    down, across = (-(-_PIECE // block) * block for block in (image.block_rows, image.block_cols))
    return {"rasterio_chunks": {"y": down, "x": across}}
