"""Small rasters and STAC Items for the tests of sources, written with rasterio alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation, Source
from embedcube.sources.fields import Fields
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel1.source import Sentinel1
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import parse_period

GRID = Grid(crs="EPSG:32632", pixel=10)
LEFT, TOP, SIDE = 600_000.0, 5_600_000.0, 32
AREA = PixelArea(row=-int(TOP) // 10, col=int(LEFT) // 10, rows=SIDE, cols=SIDE)
BBOX = [10.3, 50.4, 10.6, 50.6]

S2 = "S2A_MSIL2A_20210607T101601_N0300_R065_T32UNA_20210607T162459"
S1 = "S1A_IW_GRDH_1SDV_20220627T085101_20220627T085126_043846_053C07"


def write(
    path: Path,
    values: NDArray[Any],
    *,
    mask: NDArray[Any] | None = None,
    beside: bool = False,
    alpha: bool = False,
    scale: float = 1.0,
    add: float = 0.0,
    left: float = LEFT,
    top: float = TOP,
    descriptions: Sequence[str] = (),
    **profile: Any,
) -> Path:
    """A GeoTIFF of one or more bands, with `mask` (0: missing) inside it, `beside` it, or as its `alpha` band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values[None] if values.ndim == 2 else values
    if alpha and mask is not None:
        bands = np.concatenate([bands, mask[None].astype(values.dtype)])
    settings: dict[str, Any] = {"driver": "GTiff", "crs": GRID.crs, "transform": from_origin(left, top, 10, 10)}
    settings |= {"count": len(bands), "dtype": bands.dtype.name, "height": bands.shape[1], "width": bands.shape[2]}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not beside),
        rasterio.open(path, "w", **(settings | {"photometric": "MINISBLACK"} | profile)) as file,
    ):
        if alpha:
            file.colorinterp = [*[ColorInterp.gray] * (len(bands) - 1), ColorInterp.alpha]
        file.write(bands)
        if mask is not None and not alpha:
            file.write_mask(mask)
        for i, text in enumerate(descriptions, start=1):
            file.set_band_description(i, text)
        if (scale, add) != (1.0, 0.0):
            file.scales, file.offsets = [scale] * len(bands), [add] * len(bands)
    return path


def write_item(folder: Path, id: str, assets: Mapping[str, Any], **properties: Any) -> None:
    """A STAC Item; `s2__x` stands for `s2:x`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "type": "Feature", "stac_version": "1.0.0", "id": id, "bbox": BBOX, "geometry": None, "links": [],
        "properties": {key.replace("__", ":"): value for key, value in properties.items()}, "assets": dict(assets),
    }  # fmt: skip
    (folder / f"{id}.json").write_text(json.dumps(document))


def source_of(kind: str, path: Path, *bands: str, **settings: Any) -> Source:
    """A source of a kind, with the options it needs."""
    makers: dict[str, Any] = {"sentinel2": Sentinel2, "sentinel1": Sentinel1, "fields": Fields}
    if kind == "sentinel1":
        settings["options"] = {"values": "linear"} | settings.get("options", {})
    source: Source = makers[kind]("a", Archive(source=kind, path=path, bands=bands, **settings))
    return source


def scenes_of(kind: str, path: Path, *bands: str, **settings: Any) -> list[Scene]:
    """The scenes of an archive."""
    return list(source_of(kind, path, *bands, **settings).scenes(full_digests=False))


def observed(
    kind: str, path: Path, *bands: str, grid: Grid = GRID, area: PixelArea = AREA, **settings: Any
) -> list[Observation]:
    """What all scenes of an archive show on an area."""
    source = source_of(kind, path, *bands, **settings)
    reader = RasterReader(1, attempts=1)
    try:
        window = parse_period("1990/2100")
        return [source.observe(one, window, grid, area, reader) for one in source.scenes(full_digests=False)]
    finally:
        reader.close()
