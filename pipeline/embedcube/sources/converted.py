"""Rasters whose numbers are converted before anything else: what radar and fields look like on an area."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from embedcube.campaign.fields import Block
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Conversion, Pixels


class Numbers(Block):
    """The options of such an archive: what its files call a band, and what their numbers stand for."""

    variables: dict[str, str] = Field(default_factory=dict)
    """what the files or their catalogue call a band, where it is not its name"""
    nodata: float | None = None
    """of the files, whatever they declare; where each number is a value, one that never occurs"""
    packing: Literal["declared", "ignored"] = "declared"
    """whether the scale and offset that a file declares (GeoTIFF, NetCDF) are applied to its numbers before all else"""
    scale: dict[str, float] = Field(default_factory=dict)
    """of a band, where it is not 1; on top of what the file declares"""
    add: dict[str, float] = Field(default_factory=dict)
    """to a band after scaling, where it is not 0"""

    def steps(self, asset: Asset) -> Iterator[tuple[str, float, float]]:
        """What is done to the numbers of a file, in order: (who says so, scale, add)."""
        if asset.packed and self.packing == "declared":
            yield "the file", asset.scale, asset.add
        yield "the campaign", self.scale.get(asset.band, 1.0), self.add.get(asset.band, 0.0)

    def unpacked(self, asset: Asset) -> Conversion:
        """From what is in a file to the values that it stands for, float64."""
        steps = list(self.steps(asset))

        def convert(pixels: Pixels) -> Pixels:
            values = pixels.astype(np.float64)
            for _, scale, add in steps:
                values = values * scale + add
            return values

        return convert

    def said(self, assets: Sequence[Asset]) -> list[str]:
        """The same in words, for each band that is not as it is stored."""
        return [
            f"{asset.band} = {formula}" for asset in assets if (formula := _formula(list(self.steps(asset)))) != "DN"
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
    """The bands of a scene, float32, each pixel converted before any is resampled; seen where all have a value.

    Raises:
        CorruptInput, OSError: as `Source.observe` says.
    """
    if scene.verdict:
        raise CorruptInput(scene.verdict)
    values_cyx = reader.read_bands(archive.root, scene.assets, grid, area, archive.resampling_of, convert_of)
    seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
    return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen)
