"""The trial of a module on a few chips: its output, and whether it treats each chip alone."""

from dataclasses import astuple, dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedcube.backbones.base import Chips, Inputs
from embedcube.backbones.live_bytes import LiveBytes
from embedcube.grid import ShardLayout
from embedcube.windows import dates_of


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result of a trial."""

    chip_px: int
    halo_px: int
    cell_px: int
    frames: int
    """layout and frames of the chips of the trial"""
    dimensions: int
    """numbers in a vector"""
    chip_bytes: int
    """largest memory of its tensors, per chip; not read any more, but part of the weights' digest and so of recipes: it
    stays until KERNEL_VERSION is raised"""

    def as_array(self) -> NDArray[np.int64]:
        """The numbers as an array, for `Weights.tensors`."""
        return np.array(astuple(self), dtype=np.int64)

    @classmethod
    def of_array(cls, numbers: NDArray[np.int64]) -> "Found":
        """The result from the array in `Weights.tensors`."""
        names = [one.name for one in fields(cls)]
        return cls(**dict(zip(names, numbers.tolist(), strict=True)))


def tried(module: nn.Module, name: str, layout: ShardLayout, inputs: Inputs, batch: int) -> Found:
    """Run a module on `batch` chips of noise, on the same chips again, and on the first of them beside other chips.

    Raises:
        ValueError: the module does not take them, its output is not cells, or a chip's vectors change from pass to pass
            or with the other chips.
    """
    shape = (2 * batch - 1, inputs.frames, inputs.channels, layout.chip_px, layout.chip_px)
    x_btcyx = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    chips = Chips(
        x_btcyx=x_btcyx[:batch].clone(),
        clear_btsyx=torch.ones((batch, inputs.frames, len(inputs.bands), *shape[-2:]), dtype=torch.bool),
        lonlat_byxn=torch.zeros((batch, layout.chip_cells, layout.chip_cells, 2)),
        dates_tmd=torch.from_numpy(dates_of(())),
    )
    others = replace(chips, x_btcyx=torch.cat([x_btcyx[:1], x_btcyx[batch:]]))
    with torch.inference_mode():
        live = LiveBytes((*module.parameters(), *module.buffers()))
        with live:
            vectors = _vectors(module, name, chips)
        again, among = _vectors(module, name, chips), _vectors(module, name, others)
    if not _equal(vectors, again):
        raise ValueError(
            f"{name} gives other numbers for the same chips in a second pass: it is random, as dropout is in "
            "training mode; call .eval() before it is exported"
        )
    if not _equal(vectors[0], among[0]):
        raise ValueError(
            f"{name} gives other numbers for a chip when others are beside it in the batch, as a BatchNorm in training "
            "mode does: call .eval() before it is exported, and normalise nothing over the batch"
        )
    return Found(
        chip_px=layout.chip_px,
        halo_px=layout.halo_px,
        cell_px=layout.cell_px,
        frames=inputs.frames,
        dimensions=vectors.shape[-1],
        chip_bytes=-(-live.peak // batch),
    )


def _vectors(module: nn.Module, name: str, chips: Chips) -> Tensor:
    try:
        vectors: Tensor = module(replace(chips, x_btcyx=chips.x_btcyx.clone()))
    except ValueError:
        raise
    except Exception as error:  # third-party code may raise anything
        shape = tuple(chips.x_btcyx.shape)
        raise ValueError(f"{name} does not take chips (b, t, c, y, x) of {shape}: {_brief(error)}") from None
    return vectors


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
