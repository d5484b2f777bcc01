"""Presto written once more in NumPy: one pixel, float64; tokens of masked inputs are not made at all.

From the paper (arXiv:2304.14065) and the description of the published checkpoint, nothing of embedcube.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GROUPS = {
    "S1": ["VV", "VH"],
    "S2_RGB": ["B2", "B3", "B4"],
    "S2_Red_Edge": ["B5", "B6", "B7"],
    "S2_NIR_10m": ["B8"],
    "S2_NIR_20m": ["B8A"],
    "S2_SWIR": ["B11", "B12"],
    "ERA5": ["t2m", "tp"],
    "SRTM": ["elevation", "slope"],
    "NDVI": ["NDVI"],
}


def normalised(band: str, value: float) -> float:
    """A value, normalised as in the training of the encoder."""
    if band in ("VV", "VH"):
        return (value + 25) / 25
    if band == "NDVI":
        return value
    if band.startswith("B"):
        return value / 10000
    return {
        "t2m": (value - 272.15) / 35,
        "tp": value / 0.03,
        "elevation": value / 2000,
        "slope": value / 50,
    }[band]


def presto(
    state: Mapping[str, NDArray[Any]],
    shown: Sequence[Mapping[str, float]],
    months: Sequence[int],
    lonlat: Sequence[float],
) -> Floats:
    """The vector of a pixel: of each step the bands that are shown, in dB, DN, K, m, m, degrees; its month, 0 to 11."""
    w = {name.removeprefix("encoder."): value.astype(np.float64) for name, value in state.items()}
    lon, lat = (math.radians(v) for v in lonlat)
    place = np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])
    tokens = [linear(w, "latlon_embed", place)]
    for index, (group, bands) in enumerate(GROUPS.items()):
        for step, values in enumerate(shown):
            if {"B4", "B8"} <= set(values):
                total = values["B8"] + values["B4"]
                values = {**values, "NDVI": (values["B8"] - values["B4"]) / total if total > 0 else 0.0}
            if set(bands) <= set(values):
                token = linear(w, f"eo_patch_embed.{group}", np.array([normalised(b, values[b]) for b in bands]))
                month, position = w["month_embed.weight"][months[step]], w["pos_embed"][0, step]
                if group == "SRTM":
                    month, position = np.zeros(32), np.zeros(64)
                tokens.append(token + np.concatenate([month, w["channel_embed.weight"][index], position]))
                if group == "SRTM":
                    break
    x = np.stack(tokens)
    for block in ("blocks.0", "blocks.1"):
        x = x + attention(w, block, norm(w, f"{block}.norm1", x))
        hidden = linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", x))
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + linear(w, f"{block}.mlp.fc2", hidden)
    return norm(w, "norm", x.mean(axis=0))


def attention(w: Mapping[str, Floats], block: str, x: Floats) -> Floats:
    """Attention with eight heads of width 16."""
    query, key, value = np.split(linear(w, f"{block}.attn.qkv", x), 3, axis=-1)
    heads = []
    for head in (slice(16 * i, 16 * i + 16) for i in range(8)):
        scores = np.exp(query[:, head] @ key[:, head].T / 4)
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, head])
    return linear(w, f"{block}.attn.proj", np.concatenate(heads, axis=1))


def linear(w: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    """A linear layer."""
    return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])


def norm(w: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    """Layer normalisation."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])
