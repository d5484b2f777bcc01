"""All that embedding needs besides the shard and its scenes: it is the same for every shard of a layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.campaign.schema import Precision
from embedcube.cube.arrays import ArraySpec, ShardEncoder, layer_specs
from embedcube.cube.encoding import Encoding
from embedcube.grid import Grid, ShardLayout
from embedcube.sources.base import Source
from embedcube.windows import Window
from embedcube.zones import SampleList


@dataclass(frozen=True, kw_only=True)
class LayerInput:
    """One archive of a layer."""

    archive: str
    source: Source
    channels: slice
    """the archive's channels among those of the chips"""
    counts: bool
    """its scenes make a cell valid, and are counted: acquisitions, or fields in a layer that has none"""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """The mean and the standard deviation of each channel: chips are normalised with them; and the mean of features."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    masks: bool = False
    """whether the backbone leaves masked pixels out, and says by a vector of NaN that a cell has no usable pixel;
    otherwise masked pixels are the mean"""
    offset: NDArray[np.float32] | None = None
    """(feature): subtracted from each vector before it is stored as int8; None in a layer that is not centred"""


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """All that embedding a shard of one layer needs, loaded once per process."""

    zones: Mapping[str, Grid | SampleList]
    """zones of the layer, by name: grids, or one list of samples"""
    layout: ShardLayout
    inputs: tuple[LayerInput, ...]
    frames: tuple[tuple[Window, ...], ...]
    """frames of each window"""
    min_valid: float
    """share of a cell's footprint that must be clear in some frame, or the cell is not valid"""
    batch: int
    """number of chips in one forward pass"""
    encoding: Encoding
    precision: Precision
    dimensions: int
    """number of values in a vector"""
    normalisation: Normalisation
    module: torch.nn.Module
    """module of the backbone, on `device`"""
    device: torch.device

    @property
    def grids(self) -> dict[str, Grid]:
        """The zones that are grids, by name."""
        return {name: zone for name, zone in self.zones.items() if isinstance(zone, Grid)}

    @property
    def samples(self) -> SampleList | None:
        """The zone that is a list of samples; None in a layer of grids."""
        return next((zone for zone in self.zones.values() if isinstance(zone, SampleList)), None)

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean of each channel."""
        return self.normalisation.mean

    @property
    def std(self) -> NDArray[np.float32]:
        """The standard deviation of each channel."""
        return self.normalisation.std

    @property
    def offset(self) -> NDArray[np.float32] | None:
        """The mean of each feature, in a centred layer."""
        return self.normalisation.offset

    @property
    def counted(self) -> list[int]:
        """Indices of the inputs that make a cell valid."""
        return [s for s, layer_input in enumerate(self.inputs) if layer_input.counts]

    @cached_property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The arrays that a shard of this layer fills."""
        return layer_specs(self.layout, dimensions=self.dimensions, encoding=self.encoding)

    @cached_property
    def encoder(self) -> ShardEncoder:
        """The encoder of `specs`. Not for several threads at once."""
        return ShardEncoder(self.specs)
