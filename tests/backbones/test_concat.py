"""concat: vectors of several backbones behind each other, equal to those of layers of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from rasterio.transform import from_origin
from safetensors.numpy import load_file
from tests.backbones.test_mosaiks import a_sample, chips_of
from tests.conftest import ROOT, real_campaign
from tests.sources.test_samples import run, written

from embedcube.backbones.base import FitSample, Inputs, make_backbone
from embedcube.backbones.concat import Concat
from embedcube.backbones.weights import packed
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plugins import plugin
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.testing import check_backbone

LAYOUT = ShardLayout(chip_px=34, halo_px=1, cell_px=16, chips=2)
TWO = Inputs(bands=(("B02", "B03"), ("VV",)), frames=2, archives=("s2", "s1"))
RECIPE = "concat_s1_s2_ssl4eo_43RCP.yaml"
FILTERS: dict[str, Any] = {"name": "mosaiks", "filters": 4}
PARTS: list[dict[str, Any]] = [
    {"backbone": FILTERS, "archives": "s1", "over_time": "max"},
    {"backbone": FILTERS | {"seed": 1}},
    {"backbone": FILTERS | {"filters": 3}, "archives": ["s1", "s2"]},
]


def test_it_keeps_the_contract_of_backbones() -> None:
    check_backbone(lambda: Concat({"of": PARTS}, LAYOUT, TWO), layout=LAYOUT, inputs=TWO)


def test_a_part_sees_its_own_archives() -> None:
    """As if the layer had no other, also where one is masked; of a part without any pixel the whole cell is empty."""
    layout, rng = ShardLayout(chip_px=48, halo_px=16, cell_px=16, chips=2), np.random.default_rng(0)
    vit = {"name": "tiny_vit", "width": 16, "depth": 1}
    parts: list[dict[str, Any]] = [
        {"backbone": FILTERS, "archives": ["s1", "s2"]},
        {"backbone": FILTERS, "archives": "s1"},
        {"backbone": vit, "archives": "s2"},
    ]
    x_ntcyx = rng.uniform(100, 4000, (6, 2, 3, 48, 48)).astype(np.float32)
    sample = FitSample(x_ntcyx=x_ntcyx, lat_ny=np.zeros((6, 48)))
    backbone = Concat({"of": parts}, layout, TWO)
    weights = backbone.fit(sample)
    clear = torch.ones((6, 2, 2, 48, 48), dtype=torch.bool)
    clear[2, :, 0], clear[3, :, 1], clear[4, 0, 0, :20] = False, False, False
    x = torch.from_numpy(x_ntcyx)
    raw = torch.where(clear[:, :, [0, 0, 1]], x, 0)  # as the kernel gives it, with a mean of 0
    with torch.inference_mode():
        found = backbone.module(weights)(chips_of(raw, layout, clear)).numpy()
    own = []
    for part, channels, archives in zip(parts, ([2, 0, 1], [2], [0, 1]), ([1, 0], [1], [0]), strict=True):
        options = {key: value for key, value in part["backbone"].items() if key != "name"}
        inputs = Inputs(bands=tuple(TWO.bands[i] for i in archives), frames=2)
        alone = plugin("backbones", part["backbone"]["name"])(options, layout, inputs)
        fitted = alone.fit(FitSample(x_ntcyx=x_ntcyx[:, :, channels], lat_ny=np.zeros((6, 48))))
        mean, std = (torch.from_numpy(numbers)[:, None, None] for numbers in (fitted.mean, fitted.std))
        seen = clear[:, :, archives]
        over = [i for i, of in enumerate(inputs.bands) for _ in of]
        chips = chips_of(torch.where(seen[:, :, over], (x[:, :, channels] - mean) / std, 0), layout, seen)
        with torch.inference_mode():
            own.append(alone.module(fitted)(chips).numpy())
    expected = np.concatenate(own, axis=-1)
    assert np.isnan(expected[3]).any()
    assert not np.isnan(expected[3]).all()
    expected[3] = np.nan
    np.testing.assert_array_equal(found, expected)
    assert backbone.dimensions(weights) == found.shape[-1] == 32


def write_chips(folder: Path) -> None:
    folder.mkdir()
    about = {"driver": "GTiff", "width": 48, "height": 48, "count": 2, "dtype": "uint16", "crs": "EPSG:32632"}
    for i in range(5):
        pixels = np.random.default_rng(i).integers(100, 4000, (2, 48, 48)).astype(np.uint16)
        with rasterio.open(
            folder / f"c{i}.tif", "w", transform=from_origin(5e5 + 500 * i, 5e6, 10, 10), **about
        ) as file:
            file.write(pixels)


def numbers(cube: Cube, layer: str) -> np.ndarray:
    table = cube[layer].to_pandas()
    return table[[name for name in table if isinstance(name, int)]].to_numpy()


@pytest.mark.slow
def test_it_is_two_layers_side_by_side(tmp_path: Path) -> None:
    """Of models of two kinds, from archive to cube; one part has the weights that the other layer was fitted to."""
    write_chips(tmp_path / "chips")
    archives = {"s2": {"source": "chips", "path": "chips", "bands": ["B03", "B04"], "options": {"names": "{id}.tif"}}}
    vit = {"name": "tiny_vit", "width": 16, "depth": 1}
    layer = {"archives": "s2", "chip_px": 48, "halo_px": 16, "cell_px": 16, "encoding": "float32", "shard_chips": 2}
    layers = {
        "filters": layer | {"backbone": FILTERS},
        "vit": layer | {"backbone": vit},
        "both": layer | {"backbone": {"name": "concat", "of": [{"backbone": vit}, {"backbone": FILTERS}]}},
    }
    windows = {"start": "2020-01-01", "end": "2021-01-01", "step": "12 months"}
    cube = run(written(tmp_path, archives, layers, windows=windows))
    filters, vits, both = (numbers(cube, name) for name in ("filters", "vit", "both"))
    assert np.isfinite(both).all()
    np.testing.assert_array_equal(both, np.concatenate([vits, filters], axis=1))
    assert cube.model("both/samples") == "concat of tiny_vit and mosaiks"
    assert cube.group("both/samples").attrs["embedcube:models"] == [
        cube.group(f"{name}/samples").attrs["geoemb:model"] for name in ("vit", "filters")
    ]


@pytest.mark.realdata
@pytest.mark.slow
def test_the_shipped_recipe_keeps_components_of_both_parts(tmp_path: Path) -> None:
    """Its vectors are those without `reduce`, projected by the frozen head in NumPy."""
    with pytest.MonkeyPatch.context() as patch:
        campaign = real_campaign(ROOT / "configs" / "campaigns" / RECIPE, tmp_path, patch)

        def beside(document: dict[str, Any]) -> None:
            (layer,) = document["layers"].values()
            layer = {key: value for key, value in layer.items() if key != "reduce"}
            document["layers"]["whole"] = layer | {"encoding": "float32"}

        campaign.change(beside)
        assert "nothing found wrong" in campaign.cli("run")
    cube = Cube(campaign.run.newest_cube)
    everywhere = slice(None)
    kept, whole = (cube.vectors(f"{name}/grid", 0, everywhere, everywhere) for name in ("radar_and_optics", "whole"))
    there = np.isfinite(kept).all(axis=-1)
    assert there.sum() > 200
    np.testing.assert_array_equal(there, np.isfinite(whole).all(axis=-1))
    assert (kept.shape[-1], whole.shape[-1]) == (16, 32 + 64)
    head = load_file(campaign.run.weights("radar_and_optics"))
    basis = head["reduce.basis"].astype(float)
    expected = (whole[there] - head["reduce.mean"].astype(float)) @ basis.T
    # int8: half a step of each vector
    off = np.abs(kept[there] - expected).max(axis=1) / (np.abs(expected).max(axis=1) / 127)
    assert off.max() < 0.51
    for part in (basis[:, :32], basis[:, 32:]):
        assert np.abs(part).max() > 0.1, "both parts are in the components"


def test_files_of_parts(tmp_path: Path) -> None:
    """A file that was fitted elsewhere gives its weights; where it lies is in no digest and in no header."""
    write_chips(tmp_path / "chips")
    archives = {"s2": {"source": "chips", "path": "chips", "bands": ["B03", "B04"], "options": {"names": "{id}.tif"}}}
    layer = {"archives": "s2", "chip_px": 34, "halo_px": 1, "cell_px": 8}
    concat = {
        "name": "concat",
        "of": [{"backbone": FILTERS, "weights": "a.safetensors"}, {"backbone": FILTERS | {"seed": 1}}],
    }
    file = written(
        tmp_path, archives, {"one": layer | {"backbone": FILTERS}, "both": layer | {"backbone": concat}}
    ).file
    loaded = load_campaign(file)
    assert loaded.layers["both"].backbone["of"][0]["weights"] == str(tmp_path / "a.safetensors")
    assert "a.safetensors" not in str(loaded.what)
    backbone = make_backbone(loaded, "both")
    sample = FitSample(x_ntcyx=a_sample(chips=4)[:, None, :2], lat_ny=np.zeros((4, 34)))
    with pytest.raises(ValueError, match=r"concat\.of\.0: .*a\.safetensors"):
        backbone.fit(sample)
    elsewhere = make_backbone(loaded, "one").fit(FitSample(x_ntcyx=sample.x_ntcyx[:2], lat_ny=np.zeros((2, 34))))
    (tmp_path / "a.safetensors").write_bytes(packed(loaded, "one", elsewhere, period=""))
    weights = backbone.fit(sample)
    np.testing.assert_array_equal(weights.tensors["concat.0/bank"], elsewhere.tensors["bank"])
    np.testing.assert_array_equal(weights.tensors["concat.0/embedcube.mean"], elsewhere.mean)
    assert b"a.safetensors" not in packed(loaded, "both", weights, period="")
    other = yaml.safe_load(file.read_text())
    other["layers"]["both"]["backbone"]["of"][0]["weights_sha256"] = "0" * 64
    file.write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError, match=r"concat\.of\.0: .*has the SHA-256 [0-9a-f]{64}, weights_sha256 is 0000"):
        make_backbone(load_campaign(file), "both").fit(sample)
    del other["layers"]["both"]["backbone"]["of"][0]["weights_sha256"]
    other["layers"]["both"]["backbone"]["of"][0]["backbone"]["filters"] = 5
    file.write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError, match=r"concat\.of\.0: .*made for .*'filters': 4"):
        make_backbone(load_campaign(file), "both").fit(sample)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (PARTS[:1], "of"),
        ([PARTS[0], PARTS[0]], "no part sees the archive s2"),
        ([PARTS[1], {"backbone": FILTERS, "archives": ["s3"]}], 'of.1.archives: the layer has no archive "s3"'),
        ([PARTS[1], {"backbone": FILTERS, "archives": ["s1", "s1"]}], "one is named twice"),
        ([PARTS[1], {"backbone": {"name": "concat", "of": PARTS}}], "a part is no concat itself"),
        ([PARTS[1], {"backbone": FILTERS, "weight": "a"}], 'unknown key "weight"'),
        ([PARTS[1], {"backbone": FILTERS | {"filter": 1}}], 'of.1.backbone: mosaiks: no option "filter"'),
        ([PARTS[1], {"backbone": {"name": "presto"}}], "presto embeds single pixels"),
        ([PARTS[1], {"backbone": {"name": "mosaik"}}], 'no plugin "mosaik"'),
        ([PARTS[1], {"backbone": FILTERS, "over_time": "median"}], "over_time"),
    ],
)  # fmt: skip
def test_wrong_parts_are_refused(parts: list[dict[str, Any]], words: str) -> None:
    with pytest.raises((ValueError, RequestError), match=r"\w") as raised:
        Concat({"of": parts}, LAYOUT, TWO)
    assert words in str(raised.value)
