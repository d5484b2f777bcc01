"""A backbone of single frames, for windows of several: each frame alone, then one vector of all."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch

from embedcube.backbones.around import Around
from embedcube.backbones.contract import Backbone, Chips, FitSample, Weights
from embedcube.grid import ShardLayout

OverTime = Literal["mean", "max", "min", "concat", "diff"]


class EachFrame(Around):
    """A backbone that sees one frame, applied to each frame of a window; their vectors are combined.

    mean, max and min are over the frames in which the cell was seen clear in some archive; where none was, over all. A
    frame of which the backbone gives no finite vector counts only where it gives none of any frame.
    concat puts the frames behind each other; diff is the first of two frames minus the second, as in TerraTorch.
    """

    def __init__(self, backbone: Backbone, how: OverTime, frames: int, layout: ShardLayout) -> None:
        """`backbone` is made for one frame and chips of `layout`.

        Raises:
            ValueError: `how` does not suit the number of frames.
        """
        if how == "diff" and frames != 2:
            raise ValueError(f"over_time: diff is between two frames, a window has {frames}")
        if frames < 2:
            raise ValueError(f"over_time: {how} combines frames, and a window has one; set `frames`, or leave it out")
        assert how in get_args(OverTime)
        super().__init__(backbone, layout)
        self._how, self._frames = how, frames

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: the backbone's, times the frames where they are put behind each other."""
        return self._backbone.dimensions(weights) * (self._frames if self._how == "concat" else 1)

    def fit(self, sample: FitSample) -> Weights:
        """The backbone's weights, from the frames of the sample as so many chips."""
        count = len(sample.x_ntcyx) * self._frames
        single = replace(
            sample,
            x_ntcyx=sample.x_ntcyx.reshape(count, 1, *sample.x_ntcyx.shape[2:]),
            lat_ny=sample.lat_ny.repeat(self._frames, axis=0),
            clear_ntsyx=None,
            lonlat_nyxk=None,
            dates_ntmd=None,
        )
        return self._backbone.fit(single)

    def module(self, weights: Weights) -> torch.nn.Module:
        """The backbone's module, called for each frame."""
        module = _EachFrame(self._backbone.module(weights), self._how, self._layout)
        return module.requires_grad_(False).eval()


class _EachFrame(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, how: OverTime, layout: ShardLayout) -> None:
        super().__init__()
        self.module, self._how = module, how
        self._kept, self._cell_px = slice(layout.halo_px, layout.halo_px + layout.keep_px), layout.cell_px

    def forward(self, chips: Chips) -> torch.Tensor:
        """Vectors (b, y, x, feature) of all frames together."""
        vectors = torch.stack([self.module(_frame(chips, t)).float() for t in range(chips.x_btcyx.shape[1])], dim=-2)
        if self._how == "concat":
            return vectors.flatten(-2)
        if self._how == "diff":
            return vectors[..., 0, :] - vectors[..., 1, :]
        clear = chips.clear_btsyx.any(dim=2)[..., self._kept, self._kept].float()
        seen = torch.nn.functional.max_pool2d(clear, self._cell_px).permute(0, 2, 3, 1)[..., None] > 0
        given = vectors.isfinite().all(dim=-1, keepdim=True)
        given = torch.where(given.any(dim=-2, keepdim=True), given, True)
        seen = torch.where((seen & given).any(dim=-2, keepdim=True), seen & given, given)
        return _COMBINED[self._how](vectors, seen)


def _mean(vectors: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    return torch.where(seen, vectors, 0).sum(dim=-2) / seen.sum(dim=-2)


_COMBINED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": _mean,
    "max": lambda vectors, seen: torch.where(seen, vectors, -torch.inf).amax(dim=-2),
    "min": lambda vectors, seen: torch.where(seen, vectors, torch.inf).amin(dim=-2),
}


def _frame(chips: Chips, t: int) -> Chips:
    """One frame of a batch."""
    return replace(
        chips,
        x_btcyx=chips.x_btcyx[:, t : t + 1],
        clear_btsyx=chips.clear_btsyx[:, t : t + 1],
        dates_tmd=chips.dates_tmd[t : t + 1],
    )
