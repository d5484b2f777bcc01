"""A cell of which a backbone that masks can use no pixel has no vector, and the status that says why."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.edge.contexts import bare_context

from embedcube.backbones.base import Chips
from embedcube.campaign.plan import Shard
from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, VALID, VALID_INCOMPLETE
from embedcube.grid import Grid, ShardLayout
from embedcube.kernel.embed import ReadShard, embed_stage, to_device
from embedcube.kernel.sample import Sample

LAYOUT = ShardLayout(chip_px=8, halo_px=0, cell_px=4, chips=1)
SHARD = Shard(layer="a", zone="grid", t=0, row=0, col=0, iy=0, ix=0, recipe="", scenes=())


class Spoilt(torch.nn.Module):
    """The numbers 1, 2 and 3 in the four cells of a chip, changed by `spoil`."""

    def __init__(self, spoil: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self._spoil = spoil

    def forward(self, chips: Chips) -> torch.Tensor:
        vectors = torch.tensor([1.0, 2.0, 3.0]).repeat(len(chips.x_btcyx), 2, 2, 1)
        self._spoil(vectors)
        return vectors


def nothing_usable(vectors: torch.Tensor) -> None:
    vectors[:, 0, :] = torch.nan


def overflow(vectors: torch.Tensor) -> None:
    vectors[:, 0, 0] = torch.inf
    vectors[:, 0, 1, 0] = torch.nan


def status_of(spoil: Callable[[torch.Tensor], None], *, masks: bool) -> list[list[int]]:
    """Status of the four cells; pixels alone make them valid, valid, valid_incomplete and masked."""
    context = bare_context(Spoilt(spoil), LAYOUT, bands=1, batch=2, dimensions=3)
    normalisation = replace(context.normalisation, masks=masks)
    context = replace(context, zones={"grid": Grid(crs="EPSG:32632", pixel=10)}, normalisation=normalisation)
    sample = Sample(
        x_tcyx=np.zeros((1, 1, 8, 8), np.float32),
        clear_tsyx=np.ones((1, 1, 8, 8), dtype=bool),
        status_yx=np.array([[VALID, VALID], [VALID_INCOMPLETE, MASKED]], np.uint8),
        empty_yx=np.array([[MASKED, NO_DATA], [FAILED, MASKED]], np.uint8),
        n_obs_yx=np.ones((2, 2), np.uint16),
        contributions=b"",
        shares=b"",
        quarantined=(),
    )
    read = ReadShard(shard=SHARD, scenes=(), context=context, sample=sample, pixels=to_device(SHARD, sample, context))
    cells = embed_stage(read).cells.arrays
    has_vector = np.isfinite(cells["scale"])
    np.testing.assert_array_equal(has_vector, np.isin(cells["status"], (VALID, VALID_INCOMPLETE)))
    assert (cells["embedding"][~has_vector] == 0).all()
    found: list[list[int]] = cells["status"].tolist()
    return found


def test_a_cell_without_a_usable_pixel_says_why() -> None:
    assert status_of(nothing_usable, masks=True) == [[MASKED, NO_DATA], [VALID_INCOMPLETE, MASKED]]


@pytest.mark.parametrize(("spoil", "masks"), [(nothing_usable, False), (overflow, True), (overflow, False)])
def test_any_other_vector_that_is_not_finite_is_a_failure(spoil: Callable[[torch.Tensor], None], masks: bool) -> None:
    assert status_of(spoil, masks=masks) == [[FAILED, FAILED], [VALID_INCOMPLETE, MASKED]]
