"""Grids of tokens -> the cells of a chip's kept centre, for all backbones that are somebody else's models."""

from typing import Literal

from torch import Tensor

from embedcube.grid import ShardLayout

Pooling = Literal["none", "mean", "max", "cls"]


def kept_cells(tokens_byxd: Tensor, cls_bd: Tensor | None, pooling: str, layout: ShardLayout) -> Tensor:
    """The vectors (b, chip_cells, chip_cells, d) of a chip's kept centre; the ring that the halo covers is dropped.

    A cell is a token (`none`), or the whole centre: the mean or maximum of its tokens, or the vector of the chip.
    """
    if pooling == "cls":
        assert cls_bd is not None
        return cls_bd[:, None, None]
    ring = layout.halo_px * tokens_byxd.shape[1] // layout.chip_px
    kept = tokens_byxd[:, ring : tokens_byxd.shape[1] - ring, ring : tokens_byxd.shape[2] - ring]
    if pooling == "mean":
        return kept.mean(dim=(1, 2), keepdim=True)
    return kept.amax(dim=(1, 2), keepdim=True) if pooling == "max" else kept


def refuse_other_cells(model: str, patch_px: int, pooling: str, layout: ShardLayout) -> None:
    """Raise a ValueError where chip and halo are not whole tokens, or a cell is not what the pooling makes."""
    if layout.chip_px % patch_px or layout.halo_px % patch_px:
        raise ValueError(
            f"{model} sees patches of {patch_px} px; chip_px {layout.chip_px} and halo_px {layout.halo_px} "
            "are not whole ones"
        )
    refuse_other_cell_px(model, patch_px if pooling == "none" else None, f" (pooling {pooling})", layout)


def refuse_other_cell_px(model: str, token_px: int | None, why: str, layout: ShardLayout) -> None:
    """Raise a ValueError where a cell is not a token, or, for `token_px` None, not the kept centre of a chip."""
    wanted = token_px or layout.keep_px
    if layout.cell_px != wanted:
        what = "a token" if token_px else f"the kept centre of a chip{why}"
        raise ValueError(f"a cell of {model} is {what}: cell_px must be {wanted}, it is {layout.cell_px}")
