"""Backbones of single frames over windows of several frames, against NumPy."""

import numpy as np
import pytest
import torch
from tests.backbones.test_mosaiks import chips_of

from embedcube.backbones.base import Chips, Inputs, Weights
from embedcube.backbones.mosaiks import Mosaiks
from embedcube.backbones.over_time import EachFrame, OverTime, _EachFrame
from embedcube.grid import ShardLayout
from embedcube.testing import check_backbone

LAYOUT = ShardLayout(chip_px=18, halo_px=1, cell_px=8, chips=2)
ONE, TWO = Inputs(bands=(("B02", "B03"),)), Inputs(bands=(("B02", "B03"),), frames=2)


def each(how: OverTime) -> EachFrame:
    return EachFrame(Mosaiks({"filters": 4}, LAYOUT, ONE), how, 2, LAYOUT)


def test_it_keeps_the_contract_of_backbones() -> None:
    check_backbone(lambda: each("max"), layout=LAYOUT, inputs=TWO)


@pytest.mark.parametrize("how", ["mean", "max", "min", "concat", "diff"])
def test_frames_are_combined(how: OverTime) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((4, 2, 2, 18, 18), dtype=np.float32))
    clear = torch.ones((4, 2, 1, 18, 18), dtype=torch.bool)
    clear[1, 0], x[1, 0] = False, 0  # a frame of one chip is all cloud
    chips = chips_of(x, LAYOUT, clear)
    bank = {"bank": rng.standard_normal((4, 2, 3, 3), dtype=np.float32)}
    backbone = each(how)
    weights = Weights(mean=np.zeros(2, np.float32), std=np.ones(2, np.float32), tensors=bank)
    with torch.inference_mode():
        found = backbone.module(weights)(chips).numpy()
        single = Mosaiks({"filters": 4}, LAYOUT, ONE).module(weights)
        first, second = (single(chips_of(x[:, t : t + 1], LAYOUT, clear[:, t : t + 1])).numpy() for t in (0, 1))
    both = np.stack([first, second])
    expected = {
        "mean": both.mean(axis=0), "max": both.max(axis=0), "min": both.min(axis=0), "diff": first - second,
        "concat": np.concatenate([first, second], axis=-1),
    }[how]  # fmt: skip
    if how in ("mean", "max", "min"):
        expected[1] = second[1]  # the cloudy frame counts for nothing
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert backbone.dimensions(weights) == found.shape[-1]


class Brightness(torch.nn.Module):
    """The mean of each cell of the first frame; NaN where it holds a 9, as of a backbone that masks."""

    def forward(self, chips: Chips) -> torch.Tensor:
        kept = chips.x_btcyx[:, 0, :1, 1:-1, 1:-1]
        cells = torch.nn.functional.avg_pool2d(kept, 8).permute(0, 2, 3, 1)
        holds = torch.nn.functional.max_pool2d(kept, 8).permute(0, 2, 3, 1) == 9
        return torch.where(holds, torch.nan, cells)


@pytest.mark.parametrize("how", ["mean", "max", "min"])
def test_frames_count_where_the_cell_itself_is_seen(how: OverTime) -> None:
    """Clear pixels of the halo are of no cell; a frame without a vector takes none from the other."""
    x, clear = torch.zeros((4, 2, 2, 18, 18)), torch.zeros((4, 2, 1, 18, 18), dtype=torch.bool)
    x[:, 0], x[:, 1] = 2, 5
    clear[:2, 0] = True
    clear[0, 1, :, 0], clear[0, 1, :, :, -1] = True, True  # the halo alone
    clear[1, 1, :, 9] = True  # the first row of pixels of the lower cells
    clear[2], x[2, 1] = True, 9  # both are clear, and the second has no vector
    x[3, 0], clear[3, 0] = 9, True  # the only clear frame has none: the other stands for it
    module = _EachFrame(Brightness(), how, LAYOUT)
    found = module(chips_of(x, LAYOUT, clear))[..., 0].numpy()
    both = {"mean": 3.5, "max": 5, "min": 2}[how]
    np.testing.assert_array_equal(found[0], np.full((2, 2), 2))
    np.testing.assert_array_equal(found[1], [[2, 2], [both, both]])
    np.testing.assert_array_equal(found[2], np.full((2, 2), 2))
    np.testing.assert_array_equal(found[3], np.full((2, 2), 5))


def test_what_does_not_suit_the_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="diff is between two frames, a window has 4"):
        EachFrame(Mosaiks({"filters": 4}, LAYOUT, ONE), "diff", 4, LAYOUT)
