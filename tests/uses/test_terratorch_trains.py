"""TerraTorch's own trainer takes a folder of `export --as terratorch-tiff`: two epochs of its segmentation."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tests.cube.two_zones import FEATURES

from embedcube.backbones.terratorch.registry import build
from embedcube.cube.reader import Cube
from embedcube.progress import silent
from embedcube.uses.exchange.chosen import Chosen
from embedcube.uses.exchange.for_terratorch import export_terratorch

TILE, FINER = 16, 4
"""cells along a side of a tile; pixels of the labels along a side of a cell"""


def write_labels(folder: Path, tiles: list[Path]) -> None:
    """A mask for each tile, finer than its cells: whether the first number of the vector is positive."""
    folder.mkdir()
    for tile in tiles:
        with rasterio.open(tile) as file:
            mask = (file.read(1) > 0).astype(np.uint8).repeat(FINER, axis=0).repeat(FINER, axis=1)
            about = {"driver": "GTiff", "width": mask.shape[1], "height": mask.shape[0], "count": 1, "dtype": "uint8"}
            place = {"crs": file.crs, "transform": file.transform @ rasterio.Affine.scale(1 / FINER)}
        with rasterio.open(folder / tile.name.replace("_embedding", "_mask"), "w", **about, **place) as file:
            file.write(mask, 1)


@pytest.mark.terratorch
@pytest.mark.skipif(
    importlib.util.find_spec("terratorch") is None,
    reason="TerraTorch is not installed: `make test-terratorch` installs it and runs this",
)
@pytest.mark.filterwarnings("ignore")
def test_an_exported_folder_trains_a_segmentation(two_zones: Path, tmp_path: Path) -> None:
    """Its data module reads the tiles, its IdentityBackbone hands them on, and its decoder learns from them."""
    build("terramind_v1_tiny", {"modalities": ["S2L2A"]})  # imports TerraTorch, beside any build of torch
    done = export_terratorch(
        Cube(two_zones), tmp_path / "tt", Chosen(time="2023-08"), "terratorch-tiff", silent, tile=TILE
    )
    tiles = sorted(path for path in done.files if path.suffix == ".tif")
    assert len(tiles) >= 8
    write_labels(tmp_path / "labels", tiles)
    images, labels = tiles[0].parent, tmp_path / "labels"
    roots = {f"{split}_data_root": images for split in ("train", "val", "test")}
    roots |= {f"{split}_label_data_root": labels for split in ("train", "val", "test")}
    lightning = importlib.import_module("lightning.pytorch")
    modules, tasks = (importlib.import_module(f"terratorch.{name}") for name in ("datamodules", "tasks"))
    lightning.seed_everything(0, workers=True)
    data = modules.GenericNonGeoSegmentationDataModule(
        batch_size=4, num_workers=0, num_classes=2, img_grep="*_embedding.tif", label_grep="*_mask.tif",
        means=[0.0] * FEATURES, stds=[1.0] * FEATURES, no_data_replace=0, no_label_replace=-1, embedding_input=True,
        check_stackability=False, **roots,
    )  # fmt: skip
    task = tasks.SemanticSegmentationTask(
        model_factory="EncoderDecoderFactory",
        model_args={
            "backbone": "IdentityBackbone", "backbone_out_channels": [FEATURES], "decoder": "FCNDecoder",
            "decoder_channels": 16, "decoder_num_convs": 2, "num_classes": 2,
            "rescale": False, "image_size_out": (TILE * FINER, TILE * FINER),
        },
        loss="ce", lr=5e-3, ignore_index=-1, plot_on_val=False,
    )  # fmt: skip
    # otherwise it looks for MPI, and starts it
    alone = importlib.import_module("lightning.fabric.plugins.environments").LightningEnvironment()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        plugins=[alone],
    )  # fmt: skip
    (before,) = trainer.test(task, datamodule=data, verbose=False)
    trainer.fit(task, datamodule=data)
    (after,) = trainer.test(task, datamodule=data, verbose=False)
    assert trainer.current_epoch == 2
    assert after["test/loss"] < 0.7 * before["test/loss"]
    accuracy = next(name for name in after if name.lower().endswith("accuracy"))
    assert after[accuracy] > max(0.75, before[accuracy])
