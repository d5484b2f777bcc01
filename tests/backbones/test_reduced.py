"""Principal components behind a backbone, against scikit-learn's, and the contract of backbones."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tests.backbones.test_mosaiks import a_sample

from embedcube.backbones.base import Chips, FitSample, Inputs
from embedcube.backbones.mosaiks import Mosaiks
from embedcube.backbones.reduced import Reduced
from embedcube.grid import ShardLayout
from embedcube.testing import check_backbone
from embedcube.windows import Window, dates_of

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
