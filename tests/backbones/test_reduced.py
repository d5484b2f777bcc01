"""Principal components behind a backbone, against scikit-learn's, and the contract of backbones."""

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tests.backbones.test_mosaiks import a_sample

from embedcube.backbones.base import Backbone, Chips, FitSample, Inputs, Weights, make_backbone
from embedcube.backbones.mosaiks import Mosaiks
from embedcube.backbones.reduced import Reduced
from embedcube.campaign.load import load_campaign
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.prepare.price import refuse_large_fit
from embedcube.testing import check_backbone
from embedcube.windows import Window, dates_of

ROOT = Path(__file__).resolve().parents[2]
INPUTS = Inputs(bands=(("B02", "B03", "B04", "B08"),))
LAYOUT = ShardLayout(chip_px=34, halo_px=1, cell_px=8, chips=2)
DATES = dates_of((Window(datetime(2023, 6, 1, tzinfo=UTC), datetime(2023, 7, 1, tzinfo=UTC)),))


def reduced(components: int) -> Reduced:
    return Reduced(Mosaiks({"filters": 8}, LAYOUT, INPUTS), components, LAYOUT)


def sample_of(x_ncyx: np.ndarray) -> FitSample:
    count, _, side, _ = x_ncyx.shape
    return FitSample(
        x_ntcyx=x_ncyx[:, None],
        lat_ny=np.zeros((count, side)),
        clear_ntsyx=np.isfinite(x_ncyx).all(axis=1)[:, None, None],
        lonlat_nyxk=np.zeros((count, 4, 4, 2), np.float32),
        dates_ntmd=np.stack([DATES] * count),
    )


def test_it_keeps_the_contract_of_backbones() -> None:
    check_backbone(lambda: reduced(5), layout=LAYOUT, inputs=INPUTS)


def test_components_are_those_of_scikit_learn() -> None:
    backbone, sample = reduced(5), sample_of(a_sample(chips=9))
    weights = backbone.fit(sample)
    assert backbone.dimensions(weights) == 5
    assert sample.clear_ntsyx is not None
    x = (sample.x_ntcyx - weights.mean[:, None, None]) / weights.std[:, None, None]
    chips = Chips(
        x_btcyx=torch.from_numpy(np.nan_to_num(x)),
        clear_btsyx=torch.from_numpy(sample.clear_ntsyx),
        lonlat_byxn=torch.zeros((9, 4, 4, 2)),
        dates_tmd=torch.from_numpy(DATES),
    )
    with torch.inference_mode():
        given = Mosaiks({"filters": 8}, LAYOUT, INPUTS).module(weights)(chips).numpy().reshape(-1, 16)
        kept = backbone.module(weights)(chips).numpy().reshape(-1, 5)
    whole = np.isfinite(given).all(axis=1)
    np.testing.assert_array_equal(whole, np.isfinite(kept).all(axis=1))
    scores = PCA(5, svd_solver="full").fit(given[whole].astype(np.float64)).transform(given[whole])
    signs = np.sign((scores * kept[whole]).sum(axis=0))
    np.testing.assert_allclose(kept[whole], scores * signs, rtol=0, atol=2e-4 * np.abs(scores).max())


def test_more_components_than_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reduce.pca: 16 components of 16 numbers; keep fewer"):
        reduced(16).fit(sample_of(a_sample()))
    one = a_sample()[1:2]
    one[:, :, :17] = np.nan
    with pytest.raises(ValueError, match="vectors in the sample for 15 components"):
        reduced(15).fit(sample_of(one))


class Means:
    """A backbone that masks nothing: the mean of each band in a cell."""

    software: tuple[str, ...] = ()

    def dimensions(self, weights: Weights) -> int:
        return 4

    def module(self, weights: Weights) -> torch.nn.Module:
        return CellMeans()


class CellMeans(torch.nn.Module):
    def forward(self, chips: Chips) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(chips.x_btcyx[:, 0, :, 1:-1, 1:-1], 8).permute(0, 2, 3, 1)


def test_components_are_of_cells_with_a_clear_pixel() -> None:
    x_ncyx = np.random.default_rng(0).standard_normal((9, 4, 34, 34)).astype(np.float32)
    x_ncyx[:, :, :, 17:] = np.nan  # the cells on the right
    x_ncyx[:, :, 5, 20] = 1  # but for one pixel of the upper one of the two columns
    backbone = Reduced(cast("Backbone", Means()), 2, LAYOUT)
    one = Weights(mean=np.zeros(4, np.float32), std=np.ones(4, np.float32), tensors={})
    weights = backbone.complete(one, [sample_of(x_ncyx)])
    cells = np.nan_to_num(x_ncyx[:, :, 1:-1, 1:-1]).reshape(9, 4, 4, 8, 4, 8).mean(axis=(3, 5)).transpose(0, 2, 3, 1)
    seen = np.zeros((9, 4, 4), bool)
    seen[:, :, :2], seen[:, 0, 2] = True, True
    np.testing.assert_allclose(weights.tensors["reduce.mean"], cells[seen].mean(axis=0, dtype=float), atol=1e-6)


def test_parts_of_a_sample_give_its_components() -> None:
    backbone, sample = reduced(5), sample_of(a_sample(chips=12))
    whole = backbone.fit(sample)
    parts = [sample_of(sample.x_ntcyx[first : first + 4, 0]) for first in range(0, 12, 4)]
    in_parts = backbone.complete(backbone.begin(sample), parts)
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(in_parts.tensors[name], tensor)


def test_the_shipped_recipe_can_be_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,240 of its chips have 308 GB: only their vectors are kept, and 64 of them are fitted on."""
    monkeypatch.setenv("SSL4EO", "/data")
    campaign = load_campaign(ROOT / "configs" / "campaigns" / "temp_mosaiks_ssl4eo.yaml", mounted=False)
    backbone = make_backbone(campaign, "temp_mosaiks")
    assert isinstance(backbone, Reduced)
    assert (backbone.fit_chips, backbone.vector_chips) == (64, 10_240)
    refuse_large_fit("temp_mosaiks", 64, 4 * 27 * 264**2, campaign.how, decomposed=False)
    with pytest.raises(RequestError, match=r"a fit on 10,240 chips of .* would take 24"):
        refuse_large_fit("temp_mosaiks", 10_240, 4 * 27 * 264**2, campaign.how, decomposed=False)
