"""`centre: true` from fit to verify: the offset, what is stored, and what is refused; without it nothing changes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from tests.conftest import Campaign, call_cli
from tests.sources.test_samples import CHIPS, MOSAIKS, refused, run, write_chips, written

from embedcube.backbones.base import make_backbone
from embedcube.backbones.centred import Centred
from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan
from embedcube.campaign.vectors import CENTRE
from embedcube.consolidate.against_plan import _offsets, against_plan
from embedcube.consolidate.derived import derived
from embedcube.cube.reader import Cube
from embedcube.prepare.fit_sample import fit_sample
from embedcube.progress import silent
from embedcube.uses.exchange.chosen import Chosen
from embedcube.uses.exchange.part import export_part
from embedcube.uses.exchange.receiving import take_in

PLAIN = MOSAIKS | {"cell_px": 4, "encoding": "int8"}
LAYERS = {"centred": PLAIN | {"centre": True}, "exact": MOSAIKS | {"cell_px": 4}}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The same vectors as centred int8 and as float32."""
    folder = tmp_path_factory.mktemp("centred")
    write_chips(folder / "chips", 4)
    campaign = written(folder, CHIPS, LAYERS, how={"runs": "runs", "ranks": 1, "threads": 1})
    run(campaign)
    return campaign


@pytest.fixture
def cube(campaign: Campaign) -> Cube:
    return Cube(campaign.run.newest_cube)


def arrays(cube: Cube, layer: str) -> dict[str, NDArray[Any]]:
    group: Any = zarr.open_group(cube.path, mode="r")[f"{layer}/samples"]
    return {name: array[...] for name, array in group.arrays()}


@pytest.mark.slow
def test_the_offset_is_the_mean_of_the_vectors_of_the_sample(campaign: Campaign, cube: Cube) -> None:
    loaded = load_campaign(campaign.file)
    backbone = make_backbone(loaded, "centred")
    assert isinstance(backbone, Centred)
    assert backbone.vector_chips == max(64, -(-2048 // backbone._layout.chip_cells**2))
    fitted = read_weights(loaded, campaign.run, "centred")[0]
    plain = read_weights(loaded, campaign.run, "exact")[0]
    assert fitted.tensors.keys() - plain.tensors.keys() == {CENTRE}
    # the sample has all chips, and each of its cells has a vector in the layer of float32
    count = len(fit_sample(loaded, "centred", read_inventory(loaded, campaign.run), 1000, silent)[0].x_ntcyx)
    vectors = arrays(cube, "exact")["embedding"].astype(np.float64)
    vectors = vectors[np.isfinite(vectors).all(axis=-1)]
    assert len(vectors) == count * backbone._layout.chip_cells**2
    np.testing.assert_allclose(fitted.tensors[CENTRE], vectors.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(arrays(cube, "centred")["offset"], fitted.tensors[CENTRE])
    assert arrays(cube, "centred")["offset"].dtype == np.float32


@pytest.mark.slow
def test_what_is_read_is_within_the_bound_of_what_the_backbone_gave(cube: Cube) -> None:
    exact, stored = arrays(cube, "exact")["embedding"].astype(np.float64), arrays(cube, "centred")
    scale, offset = stored["scale"].astype(np.float64)[..., None], stored["offset"].astype(np.float64)
    values, valid = stored["embedding"] * scale + offset, np.asarray(np.isfinite(exact).all(axis=-1))
    np.testing.assert_array_equal(np.isfinite(stored["scale"]), valid)
    assert (stored["embedding"][~valid] == 0).all()
    off = np.abs(values - exact)[valid]
    assert (off <= (0.5001 * scale + 1.2e-7 * np.abs(offset))[valid]).all()
    assert (off / scale[valid]).max() > 0.4
    # the steps are those of what is left, which is why it is done
    np.testing.assert_allclose(scale[valid][:, 0], np.abs(exact - offset)[valid].max(axis=-1) / 127, rtol=1e-6)
    assert scale[valid].mean() < 0.5 * (np.abs(exact[valid]).max(axis=-1) / 127).mean()
    table = cube["centred"].to_pandas()
    rows = (table["status"] == "valid").to_numpy()
    means = np.where(valid[..., None], values, 0).reshape(len(rows), -1, 8).sum(axis=1)
    means /= np.maximum(1, valid.reshape(len(rows), -1).sum(axis=1))[:, None]
    np.testing.assert_allclose(table[list(range(8))].to_numpy()[rows], means[rows], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_readers_are_told(cube: Cube) -> None:
    about, array = (cube.group("centred/samples").attrs, cube.group("centred/samples")["embedding"].attrs)
    assert about["embedcube:value"] == "embedding * scale + offset"
    assert about["geoemb:quantization"]["method"] == "per_pixel_scale_and_feature_offset"
    assert array["long_name"] == "embedding vector, value = embedding * scale + offset"
    assert array["ancillary_variables"] == "status n_obs scale offset"


@pytest.mark.slow
def test_nothing_changes_without_it(campaign: Campaign, cube: Cube) -> None:
    assert set(arrays(cube, "centred")) - set(arrays(cube, "exact")) == {"scale", "offset"}
    assert "centre" not in load_campaign(campaign.file).what["layers"]["exact"]
    assert CENTRE not in read_weights(load_campaign(campaign.file), campaign.run, "exact")[0].tensors
    about = cube.group("exact/samples").attrs
    assert not [name for name in about if name in ("embedcube:value", "embedcube:offset")]


def test_a_campaign_without_it_is_the_one_of_before(tmp_path: Path) -> None:
    plain = written(tmp_path, CHIPS, {"plain": PLAIN})
    digest = load_campaign(plain.file, mounted=False).digest
    assert digest == GOLDEN
    centred = written(tmp_path, CHIPS, {"plain": PLAIN | {"centre": True}})
    assert load_campaign(centred.file, mounted=False).digest != digest


@pytest.mark.slow
def test_an_offset_that_is_not_that_of_the_weights_is_found(campaign: Campaign, tmp_path: Path) -> None:
    path, loaded = tmp_path / "cube.zarr", load_campaign(campaign.file)
    shutil.copytree(campaign.run.newest_cube.resolve(), path)
    plan = read_plan(loaded, campaign.run)
    for check in (derived(Cube(path)), against_plan(loaded, campaign.run, Cube(path))):
        assert not [one for one in check if "offset" in one.place]
    array: Any = zarr.open_array(path / "centred" / "samples" / "offset", mode="r+")
    array[0] = array[0] + np.float32(1)
    found = [one for one in derived(Cube(path)) if "offset" in one.place]
    found += [one for one in against_plan(loaded, campaign.run, Cube(path)) if "offset" in one.place]
    assert [(one.check, one.place) for one in found] == [
        ("derived", "centred/samples/offset"), ("offset", "centred/samples/offset"),
    ]  # fmt: skip
    other = replace(plan.layers["centred"], offset=(0.0,) * 8)
    wrong = replace(plan, layers=plan.layers | {"centred": other})
    assert [one.place for one in _offsets(campaign.run, wrong, Cube(campaign.run.newest_cube))] == [
        "centred in the plan"
    ]


@pytest.mark.slow
def test_a_part_that_is_exported_has_its_offset(cube: Cube, tmp_path: Path) -> None:
    export_part(cube, tmp_path / "part.zip", Chosen(layers=("centred",)), silent)
    part = Cube(take_in(tmp_path / "part.zip", tmp_path / "here", silent).folder)
    np.testing.assert_array_equal(part.offset("centred/samples"), cube.offset("centred/samples"))


def test_it_is_refused_where_it_adds_nothing(tmp_path: Path) -> None:
    floats = written(tmp_path, CHIPS, {"one": MOSAIKS | {"cell_px": 4, "centre": True}})
    assert "centre is for encoding int8, and this is float32" in refused(floats, "plan")
    reduced = written(tmp_path, CHIPS, {"one": PLAIN | {"centre": True, "reduce": {"pca": 3}}})
    assert "the mean of principal components is zero already" in refused(reduced, "plan")


@pytest.mark.slow
def test_weights_without_it_are_refused(campaign: Campaign, tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 2)
    plain = campaign.run.weights("exact")
    taken = written(tmp_path, CHIPS, {"one": PLAIN | {"centre": True, "weights": str(plain)}})
    assert call_cli("index", taken.file).returncode == 0
    assert "'centre': True" in refused(taken, "fit")


GOLDEN = "e4e8f64987b281db42b75ab5d6f4193632600189a71a77f17201edd7c6e8b3ed"
"""digest of the campaign as it was before there was this key"""
