"""Decoded cells as maps: one Cloud Optimized GeoTIFF for each zone and window."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.run_folder import TEMPORARY_PREFIX
from embedcube.cube.rasters import new_raster, write_cog
from embedcube.cube.reader import Cube
from embedcube.uses.decode.file import Decoder
from embedcube.uses.decode.outputs import NO_CLASS, Put, classes_of, label_of, provenance_of


class Maps:
    """Writes maps: the number of the class of each cell, or a number, or a band of shares for each class."""

    def __init__(
        self, cube: Cube, decoder: Decoder, decoder_file: Path, out: Path, work: list[tuple[str, int]],
        finer: int = 1,
    ) -> None:  # fmt: skip
        """`work` lists the zones and windows: several get the zone and the window in the names of their files.

        `finer` is the number of pixels along a side of each cell.
        """
        self._finer = finer
        self.files: list[Path] = []
        self._cube, self._decoder, self._out, self._several = cube, decoder, out, len(work) > 1
        # GDAL takes a colon in a name for the end of the name
        about = {key.replace(":", "_"): value for key, value in provenance_of(cube, decoder, decoder_file).items()}
        self._tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}

    def __enter__(self) -> "Maps":
        self._out.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        return

    @contextmanager
    def window(self, zone: str, t: int) -> Iterator[Put]:
        """Give a function that writes a rectangle of one map; the map appears at the end, or not at all."""
        from rasterio.windows import Window

        path, windows = self._path(zone, t), self._cube.windows(zone)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY_PREFIX) as scratch:
            raw, cog = Path(scratch) / "raw.tif", Path(scratch) / "cog.tif"
            with new_raster(raw, path, self._profile(zone)) as file:
                self._describe(file, str(windows[t]))

                def put(y: slice, x: slice, values: NDArray[np.float32]) -> None:
                    place = Window(x.start, y.start, x.stop - x.start, y.stop - y.start)
                    file.write(self._bands(values), window=place)

                yield put
            way = "nearest" if self._of_classes else "average"
            # a predictor for bytes, or for floating point; neither changes a number
            write_cog(raw, cog, path, {"compress": "deflate", "predictor": "yes", "overview_resampling": way})
            cog.replace(path)
        self.files.append(path)

    @property
    def _of_classes(self) -> bool:
        return self._decoder.about.request.task == "classification" or self._finer > 1

    def _path(self, zone: str, t: int) -> Path:
        if not self._several:
            return self._out
        start = self._cube.windows(zone)[t].start
        name = f"{self._out.stem}_{zone.split('/')[1]}_{start:%Y-%m-%dT%H%M%S}"
        return self._out.with_name(f"{name.removesuffix('T000000')}{self._out.suffix}")

    def _profile(self, zone: str) -> dict[str, Any]:
        from affine import Affine

        attributes = self._cube.group(zone).attrs
        rows, columns = attributes["spatial:shape"]
        fine = Affine.scale(1 / self._finer)
        count = 1 if self._of_classes else self._decoder.head.outputs
        kind = {"dtype": "uint8", "nodata": NO_CLASS} if self._of_classes else {"dtype": "float32", "nodata": np.nan}
        return {
            "width": columns * self._finer, "height": rows * self._finer, "count": count, **kind,
            "crs": attributes["proj:wkt2"], "transform": Affine(*attributes["spatial:transform"][:6]) @ fine,
            "tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": False, "bigtiff": "if_safer",
        }  # fmt: skip

    def _describe(self, file: Any, window: str) -> None:
        about = self._decoder.about
        file.update_tags(**self._tags, window=window)
        several = about.request.task == "dense" and not self._of_classes
        names = about.classes if several else [label_of(self._decoder)]
        for band, name in enumerate(names, start=1):
            file.set_band_description(band, name)
        if self._of_classes:
            file.update_tags(1, **{f"class_{number}": name for number, name in enumerate(about.classes)})
        # a raster that is not written to everywhere is nodata there, not zero
        self._fill(file)

    def _fill(self, file: Any) -> None:
        for _, window in file.block_windows(1):
            shape = (file.count, window.height, window.width)
            file.write(np.full(shape, file.nodata, file.dtypes[0]), window=window)

    def _bands(self, values: NDArray[np.float32]) -> NDArray[Any]:
        return classes_of(values)[None] if self._of_classes else np.moveaxis(values, -1, 0)
