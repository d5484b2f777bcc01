"""Radar, optics and weather as three layers of one cube, from one campaign file over real data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray
from tests.conftest import REAL_DATA, ROOT, Campaign

CAMPAIGN = ROOT / "configs" / "campaigns" / "s1_s2_era5_one_cube.yaml"
NOT_PROCESSED, VALID, NO_DATA, VALID_INCOMPLETE = 0, 1, 2, 5


@pytest.mark.realdata
@pytest.mark.slow
def test_three_layers_are_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDCUBE_REAL_DATA", str(REAL_DATA.resolve()))
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(CAMPAIGN, campaign.file)
    campaign.change(lambda document: document["how"].update(runs="runs"))
    assert "nothing found wrong" in campaign.cli("run")
    with xarray.open_datatree(campaign.run.newest_cube, engine="zarr") as tree:
        zones = {name: tree[name].to_dataset().load() for name in ("s1_mosaiks/grid", "s2_mosaiks/grid")}
        zones["era5_mosaiks/latlon"] = tree["era5_mosaiks/latlon"].to_dataset().load()
    starts = [zone["time"].values.astype("datetime64[D]").tolist() for zone in zones.values()]
    assert starts[0] == starts[1] == starts[2], "one axis of time"
    # weather of one hour of a year: a vector, and it says that the mean of the year is not whole
    seen_in = {
        "s1_mosaiks/grid": (1, VALID),
        "s2_mosaiks/grid": (1, VALID),
        "era5_mosaiks/latlon": (0, VALID_INCOMPLETE),
    }
    for name, zone in zones.items():
        status, (here, with_vector) = zone["status"].values, seen_in[name]
        assert (status[here] == with_vector).sum() > 100
        own = status[here] != NOT_PROCESSED  # arrays are larger than the shards
        assert (status[1 - here][own] == NO_DATA).all()
        assert (status[1 - here][~own] == NOT_PROCESSED).all()
        vectors = (zone["embedding"] * zone["scale"]).values
        assert np.isfinite(vectors[here][status[here] == with_vector]).all()
        assert np.isnan(vectors[1 - here]).all()
    # two dates of optics, two passes of radar, one file of weather
    assert [int(zone["n_obs"].max()) for zone in zones.values()] == [2, 2, 1]
    # 0.25 degrees, and the points of the file: 30 to 60 N, 10 W to 40 E
    weather = zones["era5_mosaiks/latlon"]
    lat, lon = (
        weather[axis].values[np.nonzero((weather["status"].values[0] == VALID_INCOMPLETE).any(axis=1 - i))[0]]
        for i, axis in enumerate("yx")
    )
    assert 29 < lat.min() < 32
    assert 58 < lat.max() < 61
    assert -11 < lon.min() < -8
    assert 38 < lon.max() < 41
