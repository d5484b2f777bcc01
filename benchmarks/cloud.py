"""What masked pixels cost the vectors of MOSAIKS: as the mean, or left out. `python -m benchmarks.cloud`.

A clear scene (33TWL, 2023-08-15) is embedded as it is, and with a share of each cell's pixels masked: squares, drawn at
random. The error is the root mean square over cells and features of (masked - clear), each feature over its standard
deviation between clear cells.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import Chips, FitSample, Inputs
from embedcube.backbones.mosaiks import Mosaiks
from embedcube.grid import ShardLayout

SCENE = "s2_l2a_33TWL_2023-08/S2A_33TWL_20230815_0_L2A"
BANDS = ("B02", "B03", "B04", "B08")
KEEP_PX = 64
"""side in pixels of a chip's kept centre"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Errors at one share of masked pixels, over the spread between cells."""

    masked: float
    """share of the pixels of each cell"""
    filled: float
    """masked pixels are the mean of their band"""
    left_out: float
    """patches that touch a masked pixel are left out"""


def main() -> None:
    """Print a table for two sizes of cells."""
    data = Path(os.environ["EMBEDCUBE_REAL_DATA"])
    print("cell   squares  masked   the mean  left out")
    for cell_px, square_px in ((16, 4), (32, 8)):
        for row in errors(data, cell_px=cell_px, square_px=square_px, filters=32):
            print(f"{cell_px:>2} px  {square_px:>4} px  {row.masked:>6.0%}   {row.filled:>8.2f}  {row.left_out:>8.2f}")


def errors(data: Path, *, cell_px: int, square_px: int, filters: int) -> list[Row]:
    """One row for each of 25, 40 and 50 % of masked pixels; `data` is the folder of real data."""
    layout = ShardLayout(chip_px=KEEP_PX + 2, halo_px=1, cell_px=cell_px, chips=1)
    chips = np.stack(list(_chips(data, layout)))
    backbone = Mosaiks({"filters": filters}, layout, Inputs(bands=(BANDS,)))
    weights = backbone.fit(FitSample(x_ntcyx=chips[:64, None], lat_ny=np.zeros((64, layout.chip_px))))
    z_ncyx = torch.from_numpy((chips - weights.mean[:, None, None]) / weights.std[:, None, None])
    module = backbone.module(weights)
    everywhere = torch.ones(len(chips), layout.chip_px, layout.chip_px, dtype=torch.bool)
    clear = _vectors(module, z_ncyx, everywhere)
    spread = clear.std(axis=(0, 1, 2))
    rows = []
    for share in (0.25, 0.4, 0.5):
        mask = torch.from_numpy(_masks(len(chips), layout, square_px, share))
        z_masked = torch.where(mask[:, None], 0, z_ncyx)
        found = (_vectors(module, z_masked, seen) for seen in (everywhere, ~mask))
        filled, left_out = (float(np.sqrt(np.nanmean(np.square((one - clear) / spread)))) for one in found)
        rows.append(Row(masked=share, filled=filled, left_out=left_out))
    return rows


def _chips(data: Path, layout: ShardLayout) -> Iterator[NDArray[np.float32]]:
    """The chips (band, y, x) that lie within the scene, one beside the other."""
    bands = []
    for band in BANDS:
        with rasterio.open(data / SCENE / f"{band}.tif") as source:
            bands.append(source.read(1))
    scene = np.stack(bands).astype(np.float32)
    side = layout.chip_px
    for row in range(0, scene.shape[1] - side + 1, KEEP_PX):
        for col in range(0, scene.shape[2] - side + 1, KEEP_PX):
            yield scene[:, row : row + side, col : col + side]


def _masks(count: int, layout: ShardLayout, square_px: int, share: float) -> NDArray[np.bool_]:
    """Masked pixels (chip, y, x): the same share of each cell, in squares, of which the last is cut."""
    rng, cell, cells = np.random.default_rng(0), layout.cell_px, layout.chip_cells
    masks = np.zeros((count, layout.chip_px, layout.chip_px), dtype=bool)
    squares = cell // square_px
    for chip, i, j in np.ndindex(count, cells, cells):
        order = np.kron(rng.random((squares, squares)), np.ones((square_px, square_px)))
        masked = np.zeros(cell * cell, dtype=bool)
        masked[np.argsort(order, axis=None, kind="stable")[: round(share * cell * cell)]] = True
        rows, cols = (slice(layout.halo_px + k * cell, layout.halo_px + (k + 1) * cell) for k in (i, j))
        masks[chip, rows, cols] = masked.reshape(cell, cell)
    return masks


def _vectors(module: torch.nn.Module, z_ncyx: torch.Tensor, clear_nyx: torch.Tensor) -> NDArray[Any]:
    with torch.inference_mode():
        chips = Chips(
            x_btcyx=z_ncyx[:, None],
            clear_btsyx=clear_nyx[:, None, None],
            lonlat_byxn=torch.zeros(len(z_ncyx), 1, 1, 2),
            dates_tmd=torch.ones((1, 2, 3), dtype=torch.int64),
        )
        return np.asarray(module(chips).double().numpy())


if __name__ == "__main__":
    main()
