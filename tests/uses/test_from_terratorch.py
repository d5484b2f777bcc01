"""Configurations of TerraTorch's embedding generation, in the forms that its users have, as campaigns."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import call_cli

from embedcube.backbones.base import make_backbone
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError
from embedcube.uses.from_terratorch import translate

STORES: dict[str, Any] = {
    "data": {
        "class_path": "terratorch.datamodules.GenericMultiModalDataModule",
        "init_args": {
            "data_with_sample_dim": True, "image_modalities": ["S2L2A", "S1GRD"], "concat_bands": False,
            "modalities": ["S2L2A", "S1GRD", "file_id"],
            "predict_data_root": {"S2L2A": "/data/s2l2a", "S1GRD": "/data/s1"},
            "means": {"S2L2A": [1000.0 + i for i in range(12)], "S1GRD": [-12.6, -20.3]},
            "stds": {"S2L2A": [2000.0] * 12, "S1GRD": [5.2, 5.9]},
            "test_transform": [
                {"class_path": "albumentations.CenterCrop", "init_args": {"height": 256, "width": 256}},
                {"class_path": "ToTensorV2"},
            ],
        },
    },
    "model": {
        "class_path": "terratorch.tasks.EmbeddingGenerationTask",
        "init_args": {
            "model": "terramind_v1_base",
            "model_args": {"modalities": ["S2L2A", "S1GRD"], "merge_method": "mean", "pretrained": True},
            "output_format": "parquet", "embedding_pooling": "vit_mean", "has_cls": False, "layers": [-1],
            "temporal_cfg": {"temporal_wrapper": True, "temporal_pooling": "keep"},
        },
    },
}  # fmt: skip
"""the old form: `model` beside `model_args`, `temporal_cfg`, stores of SSL4EO-S12"""

CHIPS: dict[str, Any] = {
    "data": {
        "class_path": "terratorch.datamodules.GenericNonGeoSegmentationDataModule",
        "init_args": {
            "predict_data_root": "/data/burns", "img_grep": "*_merged.tif",
            "dataset_bands": ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"],
            "means": [0.03, 0.06, 0.07, 0.23, 0.2, 0.11], "stds": [0.02, 0.03, 0.04, 0.08, 0.07, 0.06],
            "no_data_replace": 0,
            "test_transform": [{"class_path": "albumentations.Resize", "init_args": {"height": 224, "width": 224}}],
        },
    },
    "model": {
        "class_path": "terratorch.tasks.EmbeddingGenerationTask",
        "init_args": {
            "model_args": {
                "backbone": "prithvi_eo_v2_300_tl", "backbone_pretrained": True,
                "backbone_bands": ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"], "backbone_drop_path": 0.1,
            },
            "embedding_pooling": None, "layers": [5, 11, 23], "output_format": "tiff",
        },
    },
}  # fmt: skip
"""the new form: everything in `model_args`, chips in 0..1 reflectance, bands by names"""


def made(folder: Path, document: Any) -> tuple[Campaign, list[str]]:
    """The campaign of a configuration, checked as `embedcube` checks campaigns, and the remarks."""
    path = folder / "Config 1.yaml"
    path.write_text(yaml.safe_dump(document))
    found = translate(path)
    campaign = Campaign.model_validate(found.campaign)
    for name in campaign.layers:
        make_backbone(campaign, name)
    return campaign, found.remarks


def test_stores_in_the_old_form(tmp_path: Path) -> None:
    campaign, remarks = made(tmp_path, STORES)
    assert campaign.campaign == "config-1"
    assert {name: one.source for name, one in campaign.archives.items()} == {"s2l2a": "ssl4eo", "s1grd": "ssl4eo"}
    layer = campaign.layers["terramind_v1_base"]
    assert (layer.chip_px, layer.halo_px, layer.cell_px, layer.over_time) == (256, 0, 256, None)
    assert layer.backbone["pooling"] == layer.backbone["merge"] == "mean"
    assert layer.backbone["mean"][:2] == [1000.0, 1001.0]
    assert len(campaign.all_windows) == 4
    assert any(line.startswith("has_cls: left out") for line in remarks)
    assert "data.concat_bands: False is not translated" in remarks
    assert any("offset: 0, as TerraTorch feeds the numbers of v1.1" in line for line in remarks)


def test_chips_in_the_new_form(tmp_path: Path) -> None:
    campaign, remarks = made(tmp_path, CHIPS)
    archive, layer = campaign.archives["images"], campaign.layers["prithvi_eo_v2_300_tl"]
    assert archive.bands == ("B02", "B03", "B04", "B8A", "B11", "B12")
    assert archive.options["names"] == "{id}_merged.tif"
    assert archive.options["scale"] == dict.fromkeys(archive.bands, 10_000)
    assert layer.backbone["mean"] == [300.0, 600.0, 700.0, 2300.0, 2000.0, 1100.0]
    assert (layer.backbone["layers"], layer.cell_px) == ([5, 11, 23], 16)
    for words in ("is told dates and places here", "side by side", "model_args.drop_path: 0.1 is not translated",
                  "Resize to 224: pixels are never resampled"):  # fmt: skip
        assert any(words in line for line in remarks), words


@pytest.mark.parametrize("how", ["mean", "max", "min", "concat", "diff"])
def test_single_frames_over_time(tmp_path: Path, how: str) -> None:
    document = yaml.safe_load(yaml.safe_dump(STORES))
    document["model"]["init_args"]["temporal_cfg"]["temporal_pooling"] = how
    campaign, _ = made(tmp_path, document)
    assert len(campaign.frames("terramind_v1_base")[0]) == (2 if how == "diff" else 4)
    assert campaign.layers["terramind_v1_base"].over_time == how


@pytest.mark.parametrize(
    ("constant", "means", "scale", "mean"),
    [
        # TerraTorch normalises what its factor has made of the numbers: 0.033 is DN 330
        (1e-4, 0.033, None, 330.0), (None, 0.033, 10_000, 330.0), (1e-4, 33.0, 1e-4, 33.0), (None, 330.0, None, 330.0),
        ("1e-4", "0.033", None, 330.0),
    ],
)  # fmt: skip
def test_statistics_are_of_what_the_factor_makes(
    tmp_path: Path, constant: Any, means: Any, scale: float | None, mean: float
) -> None:
    document = yaml.safe_load(yaml.safe_dump(CHIPS))
    document["data"]["init_args"] |= {"constant_scale": constant, "means": [means] * 6, "stds": [means] * 6}
    campaign, _ = made(tmp_path, document)
    options, block = campaign.archives["images"].options, campaign.layers["prithvi_eo_v2_300_tl"].backbone
    assert options.get("scale") == (dict.fromkeys(campaign.archives["images"].bands, scale) if scale else None)
    assert block["mean"] == block["std"] == [mean] * 6


def test_statistics_of_stores_are_of_their_numbers(tmp_path: Path) -> None:
    document = yaml.safe_load(yaml.safe_dump(STORES))
    document["data"]["init_args"] |= {"constant_scale": {"S2L2A": 1e-4, "S1GRD": 1}}
    document["data"]["init_args"]["means"]["S2L2A"] = [0.1] * 12
    campaign, _ = made(tmp_path, document)
    assert campaign.layers["terramind_v1_base"].backbone["mean"] == [1000.0] * 12 + [-12.6, -20.3]


def test_bands_that_are_left_out_keep_their_numbers(tmp_path: Path) -> None:
    document = yaml.safe_load(yaml.safe_dump(CHIPS))
    document["data"]["init_args"] |= {
        "output_bands": ["NIR_NARROW", "BLUE"], "means": [300.0] * 2, "stds": [300.0] * 2,
    }  # fmt: skip
    document["model"]["init_args"]["model_args"] |= {"backbone_bands": ["NIR_NARROW", "BLUE"]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    archive = translate(path).campaign["archives"]["images"]
    assert archive["bands"] == ["B8A", "B02"]
    assert archive["options"]["variables"] == {"B8A": "4", "B02": "1"}


@pytest.mark.parametrize(
    ("block", "key", "value", "words"),
    [
        ("data", "means", ["a"], "data.init_args.means"), ("model", "layers", 5, "model.init_args.layers"),
        ("model", "embedding_pooling", ["x"], "model.init_args.embedding_pooling"),
        ("model", "temporal_cfg", True, "model.init_args.temporal_cfg"),
        ("data", "test_transform", 5, "data.init_args.test_transform"),
        ("data", "constant_scale", 0, "data.init_args.constant_scale"),
        ("model", "model_args", [1], "model.init_args.model_args"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(tmp_path: Path, block: str, key: str, value: Any, words: str) -> None:
    document = yaml.safe_load(yaml.safe_dump(STORES))
    document[block]["init_args"][key] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RequestError, match=rf"{words}.*, not "):
        translate(path)


def test_a_remark_is_one_line(tmp_path: Path) -> None:
    document = yaml.safe_load(yaml.safe_dump(STORES))
    document["model"]["init_args"]["model_args"]["ckpt_path"] = "a\nhow: {runs: /}"
    _, remarks = made(tmp_path, document)
    assert any("ckpt_path" in line for line in remarks)
    assert not any("\n" in line for line in remarks)


def test_a_tree_for_each_modality_becomes_layers(tmp_path: Path) -> None:
    document = yaml.safe_load(yaml.safe_dump(STORES))
    document["model"]["init_args"]["model_args"]["merge_method"] = None
    campaign, _ = made(tmp_path, document)
    assert set(campaign.layers) == {"terramind_v1_base_s2l2a", "terramind_v1_base_s1grd"}


def test_the_verb_writes_a_campaign_that_loads(tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "campaign.yaml"
    config.write_text(yaml.safe_dump(CHIPS))
    done = call_cli("import-terratorch", config, "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text().startswith("# made from config.yaml of TerraTorch; look at these:\n#   ")
    assert yaml.safe_load(out.read_text())["archives"]["images"]["source"] == "chips"
    again = call_cli("import-terratorch", config, "-o", out, "--json")
    assert "exists already" in again.stderr
    assert not again.stdout


def test_what_is_no_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, words in (
        ("a: [1", "cannot be read"), ("model: 3", "no block `model`"),
        ("model: {class_path: !!python/object/apply:os.system ['true']}", "cannot be read"),
        ("model: {class_path: terratorch.tasks.SemanticSegmentationTask}\ndata: {}", "EmbeddingGenerationTask only"),
    ):  # fmt: skip
        path.write_text(text)
        done = call_cli("import-terratorch", path)
        assert done.returncode == 2
        assert words in done.stderr
