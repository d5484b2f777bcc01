"""500 real points through the campaign of `configs`, held against a second Presto and the table itself."""

import io
from collections.abc import Iterator

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch
from tests.backbones.reference_presto import presto
from tests.conftest import REAL_DATA, ROOT, real_campaign, run_cli

import embedcube

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CAMPAIGN = ROOT / "configs" / "campaigns" / "presto_croptype_points_2017.yaml"
TABLE = REAL_DATA / "labels_croptype_points_2017" / "test_public_extractions.parquet"
WEIGHTS = REAL_DATA / "weights_presto" / "default_model.pt"
NODATA = 65535

S2 = {f"B{n}": f"OPTICAL-B{n:02d}-ts{{}}-{20 if n in (5, 6, 7, 11, 12) else 10}m" for n in (*range(2, 9), 11, 12)}
S2["B8A"] = "OPTICAL-B8A-ts{}-20m"


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Iterator["embedcube.Cube"]:
    """The campaign of `configs/campaigns` as a user runs it, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        campaign = real_campaign(CAMPAIGN, tmp_path_factory.mktemp("points"), patch)
        done = run_cli("run", campaign.file)
        assert done.returncode == 0, done.stderr
        assert "nothing found wrong" in done.stdout
        yield embedcube.open_cube(campaign.run.newest_cube)


@pytest.fixture(scope="module")
def rows() -> pandas.DataFrame:
    """The table, by the id of its points."""
    return pandas.DataFrame(pyarrow.parquet.read_table(TABLE).to_pandas()).set_index("sample_id")


def shown(row: pandas.Series) -> list[dict[str, float]]:
    """Values of a point in each month that are there: dB, DN, K, m, m, degrees."""
    months = []
    for t in range(12):
        values: dict[str, float] = {}
        for bands in (S2, {"VV": "SAR-VV-ts{}-20m", "VH": "SAR-VH-ts{}-20m"}):
            numbers = {band: float(row[column.format(t)]) for band, column in bands.items()}
            if NODATA not in numbers.values() and 0 not in (numbers if "VV" in numbers else {}).values():
                values |= numbers
        for band in values.keys() & {"VV", "VH"}:
            values[band] = 20 * np.log10(values[band]) - 83
        weather = [float(row[f"METEO-{name}-ts{t}-100m"]) for name in ("temperature_mean", "precipitation_flux")]
        if NODATA not in weather:
            values |= {"t2m": weather[0] / 100, "tp": weather[1] / 100 / 1000}
        months.append(values | {"elevation": float(row["DEM-alt-20m"]), "slope": float(row["DEM-slo-20m"])})
    return months


def test_all_points_have_the_vectors_of_a_second_presto(cube: "embedcube.Cube", rows: pandas.DataFrame) -> None:
    state = torch.load(io.BytesIO(WEIGHTS.read_bytes()), map_location="cpu", weights_only=True)
    tensors = {name: tensor.numpy() for name, tensor in state.items() if name.startswith("encoder.")}
    layer = cube["presto"]
    table = layer.to_pandas()
    assert len(layer.ids) == len(rows) == 500
    assert set(layer.ids) == set(rows.index)
    assert set(table.status) <= {"valid", "valid_incomplete"}
    features, worst = table.set_index("id")[list(range(128))], 0.0
    for name, row in rows.iterrows():
        expected = presto(tensors, shown(row), [(11 + t) % 12 for t in range(12)], (row["lon"], row["lat"]))
        worst = max(worst, float(np.abs(features.loc[str(name)].to_numpy() - expected).max()))
    assert worst < 1e-5
    assert np.ptp(features.to_numpy(), axis=0).max() > 0.5, "points differ by much more than the tolerance"


def test_a_point_is_where_the_table_says(cube: "embedcube.Cube", rows: pandas.DataFrame) -> None:
    table = cube["presto"].to_pandas().set_index("id")
    np.testing.assert_allclose(table.lon, rows.loc[table.index].lon, rtol=0, atol=1e-12)
    name = rows.index[123]
    vector = cube["presto"].vector(name)
    np.testing.assert_array_equal(vector[0], table.loc[name, list(range(128))].to_numpy(np.float32))
    explained = cube.explain(sample=name)
    assert explained["cell"]["sample"] == name
    assert {scene["archive"] for scene in explained["scenes"]} == {"s1", "s2", "weather", "terrain"}
