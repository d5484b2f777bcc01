"""Dense decoding of real cubes, and what decoders on vectors save. `python -m benchmarks.dense FOLDER`.

Three cubes are made in FOLDER, or found there: the scenes of 33TWL as tokens of 16 pixels and of 4 pixels, and the
fields of Hoegaarden through Presto, a vector for each pixel. The scene classes (SCL) of 33TWL are decoded from tokens;
scores are those on pixels of held-out blocks, beside the class of most pixels of each cell (the best that one class
for each cell can do) and a logistic on the numbers of each pixel. Then the figures of all three cubes: parameters,
bytes and CPU seconds. EMBEDCUBE_REAL_DATA names the folder of real data.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray
import yaml

import embedcube
from embedcube.uses.decode.baselines import PIXELS, read_again
from embedcube.uses.decode.examples import with_around
from embedcube.uses.decode.figures import figures
from embedcube.uses.decode.fit import Settings, fit_head
from embedcube.uses.decode.folds import Size, folds_of
from embedcube.uses.decode.labels import read_examples
from embedcube.uses.decode.pixels import pixel_classes, score_pixels
from embedcube.uses.decode.request import Request

DATA = Path(os.environ.get("EMBEDCUBE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
CAMPAIGNS = Path(__file__).parents[1] / "configs" / "campaigns"
SCENES = DATA / "s2_l2a_33TWL_2023-08"
FIELDS = DATA / "s1s2_agera5_worldcereal_31UFS_2020-2021"

CLASSES = {"shadow": (3,), "vegetation": (4,), "bare": (5,), "water": (6,), "cloud": (8, 9), "cirrus": (10,)}
"""of SCL; pixels of other values have no label"""

BLOCKS = Size(number=15_360, unit="m")

FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cube, and the decoder that is tried on it."""

    name: str
    campaign: str
    layer: dict[str, Any]
    """keys of the layer that differ from the campaign's"""
    request: Request
    settings: Settings


DENSE = Request(task="dense", classes=CLASSES)

CASES = (
    Case(name="tokens of 16 pixels", campaign="s2_33TWL_2023-08_dates", layer={}, request=DENSE,
         settings=Settings(kind="conv", hidden=128, most=4_000)),
    Case(name="tokens of 4 pixels", campaign="s2_33TWL_2023-08_dates", request=DENSE,
         layer={"cell_px": 4, "backbone": {"name": "mosaiks", "filters": 64}},
         settings=Settings(kind="conv", hidden=64, most=8_000)),
    Case(name="Presto, a vector for each pixel", campaign="presto_worldcereal_31UFS_2020-2021",
         layer={"encoding": "int8"}, request=Request(task="classification"), settings=Settings(kind="logistic")),
)  # fmt: skip


def main() -> None:
    """Print what each cube is worth, and what it costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="by default all")
    asked = parser.parse_args()
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["EMBEDCUBE_REAL_DATA"] = str(DATA)
    for number, case in enumerate(CASES):
        if asked.case not in (None, number):
            continue
        print(f"== {case.name}", flush=True)
        show(case, cube_of(case, folder / str(number)), labels_of(case, folder))


def cube_of(case: Case, folder: Path) -> embedcube.Cube:
    """The cube of a case, made where it is not there yet."""
    folder.mkdir(exist_ok=True)
    document = yaml.safe_load((CAMPAIGNS / f"{case.campaign}.yaml").read_text())
    (layer,) = document["layers"].values()
    layer.update(case.layer)
    document["how"].update(runs=str(folder / "runs"), ranks=1)
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    start_s = time.process_time()
    cube = embedcube.run(embedcube.Campaign.load(file), say=lambda line: None)
    print(f"cube {cube.path}, {time.process_time() - start_s:.0f} CPU s in this process", flush=True)
    return cube


def labels_of(case: Case, folder: Path) -> list[Path]:
    """Rasters of labels: the scene classes; of the fields the map of cropland, which Presto's vectors have made."""
    if case.request == DENSE:
        return sorted(SCENES.glob("*/SCL.tif"))
    out = folder / "cropland.tif"
    with xarray.open_dataset(FIELDS / "worldcereal_cropland_classification.nc", engine="netcdf4") as file:
        values = next(iter(file.data_vars.values())).sel(bands="classification").values.astype(np.uint8)
        x, y = file.x.values, file.y.values
    place = rasterio.Affine(x[1] - x[0], 0, 1.5 * x[0] - 0.5 * x[1], 0, y[1] - y[0], 1.5 * y[0] - 0.5 * y[1])
    with rasterio.open(out, "w", driver="GTiff", width=len(x), height=len(y), count=1, dtype="uint8",
                       crs="EPSG:32631", transform=place) as raster:  # fmt: skip
        raster.write(values, 1)
    return [out]


def show(case: Case, cube: embedcube.Cube, labels: list[Path]) -> None:
    """Scores on pixels, and the figures of the cube with a linear head and with the case's own."""
    layers, settings = (cube.layer.name,), case.settings
    examples = read_examples(cube, layers, labels, case.request)
    if settings.around:
        examples = with_around(cube, layers, examples)
    assert examples.cells is not None
    again = read_again(cube, layers[0], examples.cells, pixels=case.request == DENSE)
    raw = again.features.get(PIXELS)
    if case.request == DENSE and raw is not None:
        codes = pixel_classes(cube, examples.cells, labels, case.request, examples.classes)
        folds = folds_of(examples, blocks=BLOCKS, groups=False, years=False, count=FOLDS)
        print(f"{len(examples):,} cells, {folds.groups} {folds.words}, {', '.join(examples.classes)}")
        for row in score_pixels(examples, codes, raw.reshape(*codes.shape, -1), settings, folds):
            numbers = "-" if row.parameters is None else f"{row.parameters:,}"
            scores = f"mIoU {row.scores['miou']:.3f}, accuracy {row.scores['accuracy']:.3f}"
            print(f"  {row.features:36} {scores}, parameters {numbers}", flush=True)
    for own in dict.fromkeys((settings.alone(case.request.task), settings)):
        start_s = time.process_time()
        head = fit_head(examples, own)
        print(f"figures with {own.kind}, fitted in {time.process_time() - start_s:.1f} CPU s")
        for title, numbers in figures(cube, layers, examples, head, own, again).items():
            print(f"  {title}: {numbers}")
    print(f"  files: {on_disk(case, cube)}", flush=True)


def on_disk(case: Case, cube: embedcube.Cube) -> str:
    """Bytes of the files of the archive, and of the vectors and scales in the cube."""
    archive = [*SCENES.glob("*/B*.tif")] if case.request == DENSE else [FIELDS / "worldcereal_preprocessed_inputs.nc"]
    stored = [one for name in ("embedding", "scale") for one in cube.path.glob(f"*/*/{name}/**/*")
              if one.is_file() and one.name != "zarr.json"]  # fmt: skip
    before, after = (sum(file.stat().st_size for file in files) / 1e6 for files in (archive, stored))
    return f"archive {before:.2f} MB, vectors and scales {after:.2f} MB: {before / after:.2f} times less"


if __name__ == "__main__":
    main()
