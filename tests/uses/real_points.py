"""Two real tables of labelled points as vectors of Presto, beside raw numbers and vectors of shuffled weights.

Printed by `python -m tests.uses.real_points`: the tables of docs/decode.md.
"""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from tests.conftest import REAL_DATA

from embedcube.backbones.presto import CHANNELS, GROUPS, NEAR_INFRARED, RED, Encoder
from embedcube.uses.decode.baselines import RANDOM, filled
from embedcube.uses.decode.examples import Examples
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.folds import Size
from embedcube.uses.decode.heads import Kind
from embedcube.uses.decode.printed import lines_of
from embedcube.uses.decode.report import Held, Report, score

RAW = "raw numbers"
FLOAT32 = "vectors in float32"
NODATA = 65535

Floats = NDArray[np.float32]


def encoder(shuffled: bool) -> Encoder:
    """Presto's encoder; `shuffled`: with the numbers of each tensor in random order, as `decode score` has it."""
    path = REAL_DATA / "weights_presto" / "default_model.pt"
    state = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    own = {name.removeprefix("encoder."): tensor for name, tensor in state.items() if name.startswith("encoder.")}
    module = Encoder(tuple(GROUPS))
    expected = module.state_dict()
    rng = np.random.default_rng(0)
    tensors = {
        name: torch.from_numpy(rng.permutation(own[name].numpy().ravel()).reshape(own[name].shape))
        if shuffled else own[name]
        for name in expected
    }  # fmt: skip
    module.load_state_dict(tensors)
    return module.eval()


def embedded(
    x_ntc: NDArray[np.float64], clear_ntc: NDArray[np.bool_], lonlat: Floats, month: NDArray[np.int64],
    land: NDArray[np.int64] | None = None,
) -> dict[str, Floats]:  # fmt: skip
    """Vectors by name: as they are stored in int8, in float32, and by shuffled weights. `x_ntc` in Presto's units."""
    mean = np.array([channel.mean for channel in CHANNELS])
    std = np.array([channel.std for channel in CHANNELS])
    red, infrared = x_ntc[..., RED], x_ntc[..., NEAR_INFRARED]
    with np.errstate(invalid="ignore", divide="ignore"):
        ndvi = np.where(infrared + red > 0, (infrared - red) / (infrared + red), 0)
    x = np.concatenate([(x_ntc - mean) / std, ndvi[..., None]], axis=-1).astype(np.float32)
    both = clear_ntc[..., RED] & clear_ntc[..., NEAR_INFRARED]
    clear = np.concatenate([clear_ntc, both[..., None]], axis=-1)
    arguments = (torch.from_numpy(np.nan_to_num(x)), torch.from_numpy(clear), torch.tensor(lonlat),
                 torch.tensor(month))  # fmt: skip
    with torch.inference_mode():
        learned, shuffled = (
            encoder(way)(*arguments, None if land is None else torch.from_numpy(land)).numpy() for way in (False, True)
        )
    scale = np.abs(learned).max(axis=1, keepdims=True) / np.float32(127)
    return {"int8": np.rint(learned / scale) * scale, FLOAT32: learned, RANDOM: shuffled}


def crop_types() -> tuple[Examples, dict[str, Floats]]:
    """472 points of five crops in Uganda and South Sudan, 2017, and the same points as raw numbers."""
    table = pyarrow.parquet.read_table(
        REAL_DATA / "labels_croptype_points_2017" / "test_public_extractions.parquet"
    ).to_pandas()
    counts = table.sampling_label.value_counts()
    table = table[table.sampling_label.isin(counts[counts >= 15].index)].reset_index(drop=True)
    x = np.full((len(table), 12, len(CHANNELS)), np.nan)
    columns = {c: f"OPTICAL-B{c:02d}-ts{{}}-{20 if c in (5, 6, 7) else 10}m" for c in range(2, 9)}
    columns |= {9: "OPTICAL-B8A-ts{}-20m", 10: "OPTICAL-B11-ts{}-20m", 11: "OPTICAL-B12-ts{}-20m"}
    columns |= {0: "SAR-VV-ts{}-20m", 1: "SAR-VH-ts{}-20m"}
    columns |= {12: "METEO-temperature_mean-ts{}-100m", 13: "METEO-precipitation_flux-ts{}-100m"}
    for channel, pattern in columns.items():
        for t in range(12):
            x[:, t, channel] = table[pattern.format(t)]
    x[:, :, 14], x[:, :, 15] = table[["DEM-alt-20m"]], table[["DEM-slo-20m"]]
    x[x == NODATA] = np.nan
    raw = filled(np.concatenate([x[:, :, :14].reshape(len(x), -1), x[:, 0, 14:]], axis=1).astype(np.float32))
    with np.errstate(divide="ignore"):
        x[..., :2] = 20 * np.log10(x[..., :2]) - 83
    x[..., 12], x[..., 13] = x[..., 12] / 100, x[..., 13] / 100 / 1000
    clear = np.isfinite(x)
    lonlat = table[["lon", "lat"]].to_numpy(np.float32)
    month = np.tile((11 + np.arange(12)) % 12, (len(table), 1)).astype(np.int64)
    seen = embedded(x, clear, lonlat, month)
    classes, target = np.unique(table.sampling_label.to_numpy(str), return_inverse=True)
    examples = Examples(
        features=seen.pop("int8"), target=target.astype(float), classes=tuple(classes), lon=lonlat[:, 0].astype(float),
        lat=lonlat[:, 1].astype(float), seconds=np.full(len(table), 1_496_000_000), part=np.arange(len(table)),
        group=table.ref_id.to_numpy(str),
    )  # fmt: skip
    return examples, {RAW: raw, **seen}


def fuel_moisture() -> tuple[Examples, dict[str, Floats]]:
    """1,578 samples of live fuel moisture at 100 sites, and the same as raw numbers with place and month."""
    folder = REAL_DATA / "labels_fuel_moisture_train"
    known, land, month, latlon, site, target = (
        np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("s1_s2_era5_srtm", "dynamic_world", "month", "latlon", "site", "target")
    )
    # without B9, which Presto has no channel for, and NDVI, which is computed
    x = known[..., [0, 1, *range(2, 10), 11, 12, 13, 14, 15, 16]]
    month = month.astype(np.int64)
    raw = np.concatenate([known.reshape(len(known), -1), latlon, month[:, :1]], axis=1).astype(np.float32)
    seen = embedded(x, np.isfinite(x), latlon[:, ::-1].astype(np.float32), month, land.astype(np.int64))
    examples = Examples(
        features=seen.pop("int8"), target=target.astype(float), classes=(), lon=latlon[:, 1].astype(float),
        lat=latlon[:, 0].astype(float), seconds=month[:, 0] * 2_630_000, part=np.arange(len(target)),
        group=site.astype(str),
    )  # fmt: skip
    return examples, {RAW: raw, **seen}


def crops(kind: Kind, *, surveys: bool = False, seeds: int = 1) -> Report:
    """Scores of crop types on blocks of 0.1 degrees, or with whole surveys held out."""
    examples, others = crop_types()
    held = Held(blocks=None if surveys else Size(number=0.1, unit="degrees"), groups=surveys, seeds=seeds)
    return score(examples, Settings(kind=kind, neighbours=5), held, others)


def fuel(kind: Kind, seeds: int = 1) -> Report:
    """Scores of fuel moisture with whole sites held out."""
    examples, others = fuel_moisture()
    return score(examples, Settings(kind=kind), Held(groups=True, seeds=seeds), others)


def tables() -> Iterator[str]:
    """All reports as text."""
    classifiers: tuple[Kind, ...] = ("logistic", "knn", "forest")
    for kind in classifiers:
        yield from (f"== crop types, {kind}, blocks of 0.1 degrees", *lines_of(crops(kind, seeds=3)))
    yield from ("== crop types, logistic, whole surveys", *lines_of(crops("logistic", surveys=True, seeds=3)))
    regressions: tuple[Kind, ...] = ("ridge", "forest")
    for kind in regressions:
        yield from (f"== fuel moisture, {kind}, whole sites", *lines_of(fuel(kind)))


if __name__ == "__main__":
    for line in tables():
        print(line, flush=True)
