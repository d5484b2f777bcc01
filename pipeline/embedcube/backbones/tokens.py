"""Grids of tokens -> the cells of a chip's kept centre; used by the backbones `terratorch` and `torch`."""

from typing import Literal

from torch import Tensor

from embedcube.grid import ShardLayout

Pooling = Literal["none", "mean", "max", "min", "cls"]


def kept_cells(tokens_byxd: Tensor, cls_bd: Tensor | None, pooling: str, layout: ShardLayout) -> Tensor:
    """Vectors (b, chip_cells, chip_cells, d) of the chips' kept centres; the ring of tokens in the halo is dropped.

    With pooling `none` a cell is a token. Otherwise it is the whole centre: the mean, maximum or minimum of its
    tokens, or (`cls`) the class token `cls_bd` of the chip.
    """
    if pooling == "cls":
        assert cls_bd is not None
        return cls_bd[:, None, None]
    ring = layout.halo_px * tokens_byxd.shape[1] // layout.chip_px
    kept = tokens_byxd[:, ring : tokens_byxd.shape[1] - ring, ring : tokens_byxd.shape[2] - ring]
    if pooling == "mean":
        return kept.mean(dim=(1, 2), keepdim=True)
    if pooling == "min":
        return kept.amin(dim=(1, 2), keepdim=True)
    return kept.amax(dim=(1, 2), keepdim=True) if pooling == "max" else kept


def refuse_other_cells(model: str, patch_px: int, pooling: str, layout: ShardLayout) -> None:
    """Raise a ValueError unless chip and halo are whole tokens and a cell has the size that the pooling gives."""
    if layout.chip_px % patch_px or layout.halo_px % patch_px:
        raise ValueError(
            f"{model} takes patches of {patch_px} px: chip_px {layout.chip_px} and halo_px {layout.halo_px} must be "
            "multiples of it"
        )
    refuse_other_cell_px(model, patch_px if pooling == "none" else None, f" (pooling {pooling})", layout)


def refuse_other_cell_px(model: str, token_px: int | None, why: str, layout: ShardLayout) -> None:
    """Raise a ValueError unless a cell is a token, or, for `token_px` None, the kept centre of a chip."""
    expected_px = token_px or layout.keep_px
    if layout.cell_px != expected_px:
        what = "a token" if token_px else f"the kept centre of a chip{why}"
        raise ValueError(f"a cell of {model} is {what}: cell_px must be {expected_px}, it is {layout.cell_px}")
