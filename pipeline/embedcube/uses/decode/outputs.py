"""What maps and Zarr layers of decoded cells have in common: numbers of classes, names, provenance."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube import __version__
from embedcube.cube.reader import Cube
from embedcube.uses.decode.file import Decoder
from embedcube.uses.decode.heads import MOST_CLASSES

NO_CLASS = MOST_CLASSES
"""in a map of classes: a cell without a vector"""

Put = Callable[[slice, slice, NDArray[np.float32]], None]
"""Writes values (y, x, output) to some rows and columns of one window."""


def provenance_of(cube: Cube, decoder: Decoder, decoder_file: Path) -> dict[str, Any]:
    """What made the numbers of a map: the cube, the decoder and what it was fitted on."""
    return {
        "embedcube:cube": cube.version,
        "embedcube:campaign": cube.campaign,
        "embedcube:decoder_sha256": hashlib.sha256(decoder_file.read_bytes()).hexdigest(),
        "embedcube:decoder": json.loads(decoder.about.model_dump_json()),
        "embedcube:code_version": __version__,
    }


def classes_of(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Number (y, x) of the likeliest class of probabilities (y, x, class); 255 where there are none."""
    there = np.isfinite(values).all(axis=-1)
    return np.where(there, np.nan_to_num(values).argmax(axis=-1), NO_CLASS).astype(np.uint8)


def label_of(decoder: Decoder) -> str:
    """What a number of a decoder is, in a few words."""
    request = decoder.about.request
    return request.column or ("share of " + "+".join(map(str, request.share)) if request.share else "prediction")
