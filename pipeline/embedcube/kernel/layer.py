"""What embedding a shard needs: the shard, and all that is the same for every shard of its layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.campaign.schema import Precision
from embedcube.cube.encoding import Encoding
from embedcube.grid import Grid, ShardLayout
from embedcube.sources.base import Source
from embedcube.windows import Window


@dataclass(frozen=True, kw_only=True)
class LayerInput:
    """One archive of a layer."""

    archive: str
    source: Source
    channels: slice
    """of the chips"""
    counts: bool
    """its scenes make a cell valid, and are counted: acquisitions, or fields in a layer that has none"""


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """All that embedding a shard of one layer needs, loaded once per process."""

    grids: Mapping[str, Grid]
    """by their names"""
    layout: ShardLayout
    inputs: tuple[LayerInput, ...]
    frames: tuple[tuple[Window, ...], ...]
    """of every window"""
    min_valid: float
    batch: int
    encoding: Encoding
    precision: Precision
    dimensions: int
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    module: torch.nn.Module
    """on the device"""
    device: torch.device

    @property
    def counted(self) -> list[int]:
        """The inputs that make a cell valid."""
        return [s for s, one in enumerate(self.inputs) if one.counts]
