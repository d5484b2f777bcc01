"""A campaign over radar, optics, weather and terrain: its cube, held against NetCDF values and a second Presto."""

import io
import json
from collections.abc import Iterator
from typing import Any

import netCDF4
import numpy as np
import pyproj
import pytest
import torch
import xarray
import yaml
from numpy.typing import NDArray
from tests.backbones.reference_presto import presto
from tests.conftest import REAL_DATA, ROOT, Campaign, in_shards, real_campaign, run_cli

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CAMPAIGN = ROOT / "configs" / "campaigns" / "presto_worldcereal_31UFS_2020-2021.yaml"
STACK = REAL_DATA / "s1s2_agera5_worldcereal_31UFS_2020-2021" / "worldcereal_preprocessed_inputs.nc"
WEIGHTS = REAL_DATA / "weights_presto" / "default_model.pt"
ZONE = "s1s2era5_presto/grid"
NODATA = 65535

S2 = {f"B{number}": f"S2-L2A-B{number:02d}" for number in (2, 3, 4, 5, 6, 7, 8, 11, 12)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """The campaign of `configs/campaigns` as a user runs it, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        campaign = real_campaign(CAMPAIGN, tmp_path_factory.mktemp("presto"), patch)
        done = run_cli("run", campaign.file)
        assert done.returncode == 0, done.stderr
        assert "nothing found wrong" in done.stdout
        yield campaign


@pytest.fixture(scope="module")
def cube(finished: Campaign) -> xarray.Dataset:
    """The cells of the layer's shards."""
    return in_shards(finished.run.newest_cube, ZONE)


@pytest.fixture(scope="module")
def stack() -> Iterator[dict[str, NDArray[Any]]]:
    """Every variable of the file as stored, in uint16."""
    with netCDF4.Dataset(STACK) as file:
        file.set_auto_maskandscale(False)
        yield {
            name: variable[:].astype(np.uint16) if variable.ndim == 3 else variable[:]
            for name, variable in file.variables.items()
        }


def shown_at(stack: dict[str, NDArray[Any]], row: int, col: int) -> list[dict[str, float]]:
    """Values of a pixel in each month that are not masked: dB, DN, K, m, m, degrees."""
    months = []
    for t in range(12):
        number = {name: float(stack[name][t, row, col]) for name in stack if stack[name].ndim == 3}
        shown = {
            "VV": 20 * np.log10(number["S1-SIGMA0-VV"]) - 83,
            "VH": 20 * np.log10(number["S1-SIGMA0-VH"]) - 83,
            "t2m": number["AGERA5-TMEAN"] / 100,
            "tp": number["AGERA5-PRECIP"] / 100 / 1000,
            "elevation": number["elevation"],
            "slope": number["slope"],
        }
        if NODATA not in (number[variable] for variable in S2.values()):
            shown |= {band: number[variable] for band, variable in S2.items()}
        months.append(shown)
    return months


def test_the_cube_is_whole_and_where_the_file_is(cube: xarray.Dataset, stack: dict[str, NDArray[Any]]) -> None:
    assert cube.embedding.shape == (1, 100, 100, 128)
    assert cube.embedding.dtype == np.float32
    assert np.isfinite(cube.embedding).all()
    assert (cube.status == 1).all()
    np.testing.assert_array_equal(cube.x, stack["x"])
    np.testing.assert_array_equal(cube.y, stack["y"])
    bounds = cube.time_bnds.values.astype("datetime64[D]").astype(str)
    assert bounds.tolist() == [["2020-11-01", "2021-11-01"]]


def test_acquisitions_are_twelve_of_radar_and_ten_of_optics(cube: xarray.Dataset) -> None:
    assert (cube.n_obs == 22).all()


def test_vectors_are_prestos_of_the_values_in_the_file(cube: xarray.Dataset, stack: dict[str, NDArray[Any]]) -> None:
    state = torch.load(io.BytesIO(WEIGHTS.read_bytes()), map_location="cpu", weights_only=True)
    tensors = {name: tensor.numpy() for name, tensor in state.items() if name.startswith("encoder.")}
    to_degrees = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    dark = [tuple(place) for place in np.argwhere((stack["S2-L2A-B02"] == 0).any(axis=0))]
    assert dark, "a reflectance of 0 is a value here"
    places = [(0, 0), (0, 99), (99, 0), (99, 99), (24, 25), (25, 24), (49, 50), (50, 49), (71, 13), *dark[:3]]
    vectors = []
    for row, col in places:
        shown = shown_at(stack, row, col)
        assert [t for t, values in enumerate(shown) if "B2" not in values] == [1, 2]
        lonlat = to_degrees.transform(float(stack["x"][col]), float(stack["y"][row]))
        vectors.append(presto(tensors, shown, [(10 + t) % 12 for t in range(12)], lonlat))
        np.testing.assert_allclose(cube.embedding[0, row, col], vectors[-1], rtol=0, atol=5e-5)
    assert np.ptp(vectors, axis=0).max() > 0.5, "pixels differ by much more than the tolerance"


def test_the_cube_says_what_it_rests_on(finished: Campaign, cube: xarray.Dataset) -> None:
    document = yaml.safe_load(CAMPAIGN.read_text())
    assert cube.attrs["geoemb:model"] == "https://doi.org/10.48550/arXiv.2304.14065"
    root = json.loads((finished.run.newest_cube / "zarr.json").read_text())["attributes"]
    layer = root["embedcube:what"]["layers"]["s1s2era5_presto"]
    assert layer["weights_sha256"] == document["layers"]["s1s2era5_presto"]["weights_sha256"]
    assert layer["archives"] == ["s1", "s2", "weather", "terrain"]
