"""Vectors of Presto with its published and with random weights. `python -m benchmarks.presto_vectors`.

It prints how well nearest neighbours tell the crops of 500 labelled points (Uganda, South Sudan) apart, for both, with
all points of one square of 0.1 degrees left out at a time: what `find` needs, measured beside an encoder that knows
nothing. `python -m benchmarks.find --presto` indexes vectors of a real tile.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from benchmarks.find import tile
from embedcube.backbones.presto import CHANNELS, GROUPS, Encoder
from embedcube.cube.similar import Query

DATA = Path(os.environ.get("EMBEDCUBE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))

OPTICAL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

NODATA = 65535

NEIGHBOURS = 5


def encoder(seed: int | None = None) -> Encoder:
    """Presto, with its published weights, or with random ones."""
    torch.manual_seed(seed or 0)
    made = Encoder(tuple(GROUPS))
    if seed is None:
        state = torch.load(DATA / "weights_presto" / "default_model.pt", map_location="cpu", weights_only=True)
        own = made.state_dict()
        made.load_state_dict({name: state[f"encoder.{name}"] for name in own})
    return made.requires_grad_(False).eval()


def embedded(
    model: Encoder, values_ntc: NDArray[np.float32], lonlat_nk: NDArray[np.float32], month_nt: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Vectors (n, 128) of 16 channels in their units; NaN is missing."""
    mean, std = (np.array([getattr(channel, name) for channel in CHANNELS], np.float32) for name in ("mean", "std"))
    clear = np.isfinite(values_ntc)
    normal = np.where(clear, (values_ntc - mean) / std, 0)
    red, infrared = normal[..., 4], normal[..., 8]
    total = infrared + red
    ndvi = np.divide(infrared - red, total, out=np.zeros_like(total), where=total > 0)
    normal = np.concatenate([normal, ndvi[..., None]], axis=-1)
    clear = np.concatenate([clear, (clear[..., 4] & clear[..., 8])[..., None]], axis=-1)
    parts = []
    for first in range(0, len(normal), 4096):
        some = slice(first, first + 4096)
        arrays = (normal[some], clear[some], lonlat_nk[some], month_nt[some])
        parts.append(model(*map(torch.from_numpy, arrays)).numpy())
    return np.concatenate(parts)


def vectors_of_tile(side: int = 352) -> NDArray[np.float32]:
    """(window, y, x, feature) of a real tile in one month; the second window has other gains."""
    torch.set_num_threads(1)
    pixels = tile(OPTICAL)[:, :side, :side].reshape(len(OPTICAL), -1).T
    model, count = encoder(), side * side
    values = np.full((count, 1, len(CHANNELS)), np.nan, np.float32)
    lonlat = np.tile(np.array([[103.7, 17.9]], np.float32), (count, 1))
    windows = []
    for month, gains in ((1, 1.0), (7, np.linspace(0.8, 1.1, len(OPTICAL)))):
        values[:, 0, 2:12] = pixels * gains
        windows.append(embedded(model, values, lonlat, np.full((count, 1), month)).reshape(side, side, -1))
    return np.stack(windows)


def labelled() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Channels (point, month, channel), places, months and labels of the points; classes with ten points and more."""
    table = pyarrow.parquet.read_table(DATA / "labels_croptype_points_2017" / "test_public_extractions.parquet")
    columns = {name: np.asarray(table[name].to_pylist(), dtype=object) for name in table.column_names}

    def series(name: str, resolution: int) -> NDArray[np.float32]:
        values = np.stack([columns[f"{name}-ts{t}-{resolution}m"].astype(np.float32) for t in range(12)], axis=1)
        return np.where(values == NODATA, np.nan, values)

    values = np.full((table.num_rows, 12, len(CHANNELS)), np.nan, np.float32)
    for channel, name in enumerate(("SAR-VV", "SAR-VH")):
        values[..., channel] = 20 * np.log10(np.maximum(series(name, 20), 1)) - 83
    for channel, band in enumerate(OPTICAL, start=2):
        resolution = 10 if band in ("B02", "B03", "B04", "B08") else 20
        values[..., channel] = series(f"OPTICAL-{band}", resolution)
    values[..., 12] = series("METEO-temperature_mean", 100) / 100
    values[..., 13] = series("METEO-precipitation_flux", 100) / 100 / 1000
    values[..., 14] = columns["DEM-alt-20m"].astype(np.float32)[:, None]
    values[..., 15] = columns["DEM-slo-20m"].astype(np.float32)[:, None]
    lonlat = np.stack([columns["lon"], columns["lat"]], axis=1).astype(np.float32)
    labels = [str(label) for label in columns["label_full"]]
    counts = Counter(labels)
    kept = np.array([counts[label] >= 10 for label in labels])
    months = np.tile((11 + np.arange(12)) % 12, (int(kept.sum()), 1))
    return values[kept], lonlat[kept], months, [label for label, keep in zip(labels, kept, strict=True) if keep]


def score(vectors: NDArray[np.float32], lonlat: NDArray[np.float32], labels: list[str]) -> tuple[float, float]:
    """Share of points, and its mean over classes, whose nearest neighbours outside of their square agree with them."""
    squares = np.floor(lonlat / 0.1).astype(int)
    names, right = np.array(labels), np.zeros(len(labels), bool)
    for i, vector in enumerate(vectors):
        cosines = Query.of(vector).cosines(vectors).copy()
        cosines[(squares == squares[i]).all(axis=1)] = -2
        nearest = names[np.argsort(-cosines, kind="stable")[:NEIGHBOURS]]
        right[i] = Counter(nearest.tolist()).most_common(1)[0][0] == names[i]
    return float(right.mean()), float(np.mean([right[names == name].mean() for name in np.unique(names)]))


def main() -> None:
    """Print the scores."""
    torch.set_num_threads(1)
    values, lonlat, months, labels = labelled()
    majority = max(Counter(labels).values()) / len(labels)
    squares = len({tuple(square) for square in np.floor(lonlat / 0.1).astype(int).tolist()})
    print(
        f"{len(labels)} points of {len(set(labels))} classes in {squares} squares; the largest class has {majority:.3f}"
    )
    for name, seeds in (("published weights", (None,)), ("random weights", (1, 2, 3))):
        scores = [score(embedded(encoder(seed), values, lonlat, months), lonlat, labels) for seed in seeds]
        means = np.mean(scores, axis=0)
        print(
            f"{name}: {NEIGHBOURS} nearest neighbours agree with {means[0]:.3f} of the points, {means[1]:.3f} by class"
        )
    raw = np.nan_to_num(values.reshape(len(values), -1) - np.nanmean(values, axis=0).ravel())
    raw /= np.maximum(raw.std(axis=0), 1e-6)
    print("raw channels, standardised: {:.3f}, {:.3f} by class".format(*score(raw.astype(np.float32), lonlat, labels)))


if __name__ == "__main__":
    main()
