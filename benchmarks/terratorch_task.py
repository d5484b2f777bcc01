"""The peer: TerraTorch's own EmbeddingGenerationTask. `python -m benchmarks.terratorch_task CAMPAIGN FOLDER`.

It reads chips that somebody has cut, a file of six bands for each, as TerraTorch's data modules want them; cutting them
is not timed. Its model is the campaign's, from the same weights; it writes one GeoTIFF of tokens a chip.
"""

import logging
import sys
import time
import warnings
from pathlib import Path

import rasterio
import torch
from rasterio.windows import Window

from benchmarks.work import BATCH, campaign_of, kernel_of, report


def main(campaign_file: str, folder: str) -> None:
    """Report the seconds of `Trainer.predict`, with two ways to use the cores; the better one is the peer."""
    campaign = campaign_of(campaign_file)
    cores = campaign.how.ranks
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    chips = Path(folder) / "chips"
    cut_chips(campaign.archives["s2"].path, campaign.archives["s2"].bands, chips)
    context = kernel_of(campaign)  # imports TerraTorch where torchvision was built for another torch, too
    import lightning
    from terratorch.datamodules import GenericNonGeoPixelwiseRegressionDataModule
    from terratorch.tasks.embedding_generation import EmbeddingGenerationTask

    walls = {}
    for workers in (0, cores):
        torch.set_num_threads(cores)
        data = GenericNonGeoPixelwiseRegressionDataModule(
            batch_size=BATCH,
            num_workers=workers,
            # it wants them, and looks at the last one alone
            train_data_root=chips,
            val_data_root=chips,
            test_data_root=chips,
            predict_data_root=chips,
            means=context.mean.tolist(),
            stds=context.std.tolist(),
            check_stackability=False,
        )
        task = EmbeddingGenerationTask(
            model_args={"backbone": campaign.layers["layer"].backbone["model"], "backbone_pretrained": False},
            output_dir=str(Path(folder) / f"embeddings{workers}"),
            has_cls=True,
        )
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        start = time.perf_counter()
        trainer.predict(task, datamodule=data, return_predictions=False)
        walls[f"workers_{min(workers, 1)}_s"] = time.perf_counter() - start
    report(walls)


def cut_chips(archive: Path, bands: tuple[str, ...], folder: Path) -> None:
    """One GeoTIFF of all bands for each chip of 224 px."""
    folder.mkdir(parents=True)
    sources = [rasterio.open(archive / f"{band}.tif") for band in bands]
    side = 224
    for row in range(sources[0].height // side):
        for col in range(sources[0].width // side):
            window = Window(col * side, row * side, side, side)
            profile = sources[0].profile | {
                "count": len(bands), "width": side, "height": side, "transform": sources[0].window_transform(window),
                "blockxsize": side, "blockysize": side,
            }  # fmt: skip
            with rasterio.open(folder / f"{row:03d}_{col:03d}.tif", "w", **profile) as out:
                for i, source in enumerate(sources, start=1):
                    out.write(source.read(1, window=window), i)
    for source in sources:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
