"""Output of a module (maps, tokens, or one vector) -> the cells of a chip's kept centre."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor, nn

from embedcube.backbones.base import Chips
from embedcube.backbones.tokens import kept_cells, refuse_other_cell_px, refuse_other_cells
from embedcube.grid import ShardLayout


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read the output of a module: options of the campaign."""

    name: str
    """name of the module in messages"""
    output: int | str | None
    """index or key of the output, where there are several"""
    prefix_tokens: int | None
    """tokens before the grid; None: what is left over of the largest square"""
    pooling: str


class Vectors(nn.Module):
    """Maps chips to the vectors of their kept centres."""

    def __init__(self, inner: nn.Module, axes: tuple[int, ...], reading: Reading, layout: ShardLayout) -> None:
        """`axes`: indices into btcyx of the axes that the module takes, in its order."""
        super().__init__()
        self.inner = inner
        self.training = False
        self._axes, self._reading, self._layout = axes, reading, layout

    def forward(self, chips: Chips) -> Tensor:
        """Vectors (b, chip_cells, chip_cells, d)."""
        x = chips.x_btcyx
        x = x[:, 0] if len(self._axes) == 4 else x.permute(self._axes).contiguous()
        out = _one_of(self.inner(x), self._reading)
        name, pooling, layout = self._reading.name, self._reading.pooling, self._layout
        if out.ndim == 2:
            if pooling != "none":
                raise ValueError(f"{name} gives one vector per chip: there is nothing to pool, leave `pooling` out")
            refuse_other_cell_px(name, None, "", layout)
            return out[:, None, None].float()
        tokens_byxd, cls_bd = _grid(out, self._reading)
        if pooling == "cls" and cls_bd is None:
            raise ValueError(f"{name} gives no class token before its grid: pooling may be none, mean or max")
        side = tokens_byxd.shape[1]
        if side > layout.chip_px or layout.chip_px % side:
            raise ValueError(
                f"{name} gives {side} x {side} cells per chip of {layout.chip_px} px: a cell is not whole pixels"
            )
        refuse_other_cells(name, layout.chip_px // side, pooling, layout)
        return kept_cells(tokens_byxd, cls_bd, pooling, layout).float()


def _one_of(given: Any, reading: Reading) -> Tensor:
    """The tensor that `reading.output` selects from a module's output."""
    if isinstance(given, Tensor) and reading.output is None:
        return given
    several: Mapping[Any, Any] = given if isinstance(given, Mapping) else {}
    if isinstance(given, list | tuple):
        several = dict(enumerate(given))
    key = next(iter(several)) if reading.output is None and len(several) == 1 else reading.output
    if isinstance(key, int) and key < 0:
        key += len(several)
    if key not in several or not isinstance(several[key], Tensor):
        if isinstance(given, Tensor):
            raise ValueError(f"{reading.name} gives one tensor; leave `output` out (it is {reading.output!r})")
        keys = f" of {', '.join(map(str, several))}" if several else ""
        raise ValueError(
            f"{reading.name} gives a {type(given).__name__}{keys}; set `output` to the key of one tensor "
            f"(it is {reading.output!r})"
        )
    selected: Tensor = several[key]
    return selected


def _grid(out: Tensor, reading: Reading) -> tuple[Tensor, Tensor | None]:
    """Tokens (b, y, x, d), and the first token before the grid (b, d), None where there is none."""
    shape = tuple(out.shape)
    if out.ndim == 4:
        maps, tokens = shape[2] == shape[3], shape[1] == shape[2]
        if maps != tokens:
            return (out.permute(0, 2, 3, 1) if maps else out), None
        if maps:
            raise ValueError(f"{reading.name} gives {shape}, which can be (b, d, y, x) or (b, y, x, d): change chip_px")
    if out.ndim == 3:
        side = isqrt(shape[1] - (reading.prefix_tokens or 0)) if shape[1] >= (reading.prefix_tokens or 0) else 0
        before = shape[1] - side**2 if reading.prefix_tokens is None else reading.prefix_tokens
        if side and shape[1] - before == side**2:
            return out[:, before:].unflatten(1, (side, side)), out[:, 0] if before else None
        raise ValueError(
            f"{reading.name} gives {shape[1]} tokens; without the first {before} (prefix_tokens) they are not a square"
        )
    raise ValueError(
        f"{reading.name} gives {shape}: neither maps (b, d, y, x), nor tokens (b, n, d), nor vectors (b, d) of "
        f"{shape[0]} chips; where there are several outputs, set `output`"
    )
