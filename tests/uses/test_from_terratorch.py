"""Configurations of TerraTorch's embedding generation, in the forms that its users have, as campaigns."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import call_cli

from embedcube.backbones.base import make_backbone
from embedcube.campaign.schema import Campaign
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


@pytest.mark.parametrize("how", ["mean", "max", "min", "concat"])
def test_single_frames_over_time(tmp_path: Path, how: str) -> None:
    document = yaml.safe_load(yaml.safe_dump(STORES))
    document["model"]["init_args"]["temporal_cfg"]["temporal_pooling"] = how
    campaign, _ = made(tmp_path, document)
    assert len(campaign.frames("terramind_v1_base")[0]) == 4
    assert campaign.layers["terramind_v1_base"].over_time == how


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
    assert "exists already" in call_cli("import-terratorch", config, "-o", out).stderr


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
