"""Rasters whose stored numbers are converted to values before they are resampled: radar and fields."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.image_options import ImageOptions
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Conversion, Pixels


class Numbers(ImageOptions):
    """Options of an archive with converted numbers: names of bands in its files, and how numbers become values."""

    nodata: float | None = None
    """number that means no data in the files, instead of what they declare; one that never occurs, if all are values"""
    packing: Literal["declared", "ignored"] = "declared"
    """whether the scale and offset that a file declares (GeoTIFF, NetCDF) are applied first"""
    scale: dict[str, float] = Field(default_factory=dict)
    """factor for a band, default 1; applied after what the file declares"""
    add: dict[str, float] = Field(default_factory=dict)
    """added to a band after scaling, default 0"""

    def conversions(self, asset: Asset) -> Iterator[tuple[str, float, float]]:
        """The conversions of a file's numbers in order, as (who says so, scale, add)."""
        if asset.packed and self.packing == "declared":
            yield "the file", asset.scale, asset.add
        yield "the campaign", self.scale.get(asset.band, 1.0), self.add.get(asset.band, 0.0)

    def unpacked(self, asset: Asset) -> Conversion:
        """Conversion of a file's numbers to values, in float64."""
        steps = list(self.conversions(asset))

        def convert(pixels: Pixels) -> Pixels:
            values = pixels.astype(np.float64)
            for _, scale, add in steps:
                values = values * scale + add
            return values

        return convert

    def formulas(self, assets: Sequence[Asset]) -> list[str]:
        """The conversion of each band in words; bands that stay as they are stored are left out."""
        return [
            f"{asset.band} = {formula}"
            for asset in assets
            if (formula := _formula(list(self.conversions(asset)))) != "DN"
        ]


def _formula(steps: list[tuple[str, float, float]]) -> str:
    formula = "DN"
    for who, scale, add in steps:
        if (scale, add) != (1.0, 0.0):
            inner = formula if formula == "DN" else f"({formula})"
            formula = f"{inner} * {scale!r} + {add!r} as {who} says"
    return formula


def observe_converted(
    scene: Scene,
    archive: Archive,
    grid: Grid,
    area: PixelArea,
    reader: RasterReader,
    convert_of: Callable[[Asset], Conversion],
) -> Observation:
    """Read the bands of a scene as float32, converted before they are resampled; seen where all bands have a value.

    Raises:
        CorruptInput, OSError: see `Source.observe`.
    """
    if scene.verdict:
        raise CorruptInput(scene.verdict)
    values_cyx = reader.read_bands(archive.root, scene.assets, grid, area, archive.resampling_of, convert_of)
    seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
    return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen)
