"""A decoder and its file: safetensors with one JSON text beside the arrays. Nothing in it can run."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, ValidationError

from embedcube.campaign.readable import readable
from embedcube.campaign.run_folder import replacing
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.uses.decode.examples import Examples
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.heads import MOST_CLASSES, Head, Kind, why_wrong
from embedcube.uses.decode.request import Request

_KEY = "embedcube.decoder"

_PICKLES = (
    (b"\x80", "a pickle"),
    (b"PK", "a zip, as torch and joblib write pickles"),
    (b"\x1f\x8b", "gzip, as joblib writes pickles"),
    (b"x", "zlib, as joblib writes pickles"),
)
"""first bytes of files that hold, or may hold, a pickle"""


class LayerUsed(BaseModel):
    """A layer that a decoder was fitted on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: str
    """SHA-256 (hex) of the frozen weights that made its vectors"""
    features: int
    encoding: str


class About(BaseModel):
    """What a decoder's file says beside its arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    kind: Kind
    request: Request
    settings: Settings
    layers: tuple[LayerUsed, ...]
    classes: tuple[str, ...]
    """names of the outputs; empty for a number"""
    fitted_on: int
    """labelled cells"""
    labels: str
    """SHA-256 (hex) of the files of labels"""
    cube: str
    """version of the cube"""


class Decoder:
    """A head, with what it was fitted on."""

    def __init__(self, head: Head, about: About) -> None:
        """`head` has an output for each class of `about`, or one."""
        self.head = head
        self.about = about

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what it says of itself and of its arrays."""
        digest = hashlib.sha256(self.about.model_dump_json().encode())
        for name, array in sorted(self.head.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that it takes, side by side."""
        return tuple(layer.name for layer in self.about.layers)


def layers_used(cube: Cube, layers: Sequence[str]) -> tuple[LayerUsed, ...]:
    """Layers of a cube as a decoder's file names them."""
    digests = cube.provenance.attributes["weights"]
    return tuple(
        LayerUsed(
            name=layer, weights=digests[layer], features=int(array.shape[-1]), encoding=str(array.dtype)
        )
        for layer in layers
        for array in [cube.array(cube.zones_of(layer)[0], "embedding")]
    )  # fmt: skip


def made(cube: Cube, layers: Sequence[str], examples: Examples, head: Head, request: Request, settings: Settings,
         labels: str) -> Decoder:  # fmt: skip
    """A decoder of a fitted head.

    Raises:
        RequestError: it has more classes than a map can tell apart.
    """
    if len(examples.classes) > MOST_CLASSES:
        raise RequestError(
            f"{len(examples.classes):,} classes: a decoder has at most {MOST_CLASSES}; join some, or fit several"
        )
    return Decoder(head, About(
        kind=head.kind, request=request, settings=settings, layers=layers_used(cube, layers), classes=examples.classes,
        fitted_on=len(examples), labels=labels, cube=cube.version,
    ))  # fmt: skip


def write_decoder(decoder: Decoder, path: Path) -> None:
    """Write a decoder's file whole, or not at all."""
    text = decoder.about.model_dump_json()
    data = safetensors.numpy.save(dict(decoder.head.arrays), metadata={_KEY: text})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_decoder(path: Path) -> Decoder:
    """The decoder of a file.

    Raises:
        RequestError: there is no such file, it is a pickle or another foreign file, or its arrays do not fit together.
    """
    try:
        data = readable(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: no decoder can be read there: {error.strerror}") from None
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = About.model_validate_json(header["__metadata__"][_KEY])
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RecursionError, ValidationError) as error:
        for start, what in _PICKLES:
            if data.startswith(start):
                raise RequestError(
                    f"{path}: {what}, which could run code and is not opened; "
                    "a decoder is safetensors: make it with `embedcube decode fit`"
                ) from None
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise RequestError(f"{path}: not a decoder of embedcube ({reason})") from None
    head = Head(kind=about.kind, outputs=len(about.classes) or 1, arrays=arrays)
    wrong = why_wrong(head)
    if not wrong and len(about.classes) > MOST_CLASSES:
        wrong = f"it has {len(about.classes):,} classes, {MOST_CLASSES} at most can be told apart"
    if not wrong and head.features != sum(layer.features for layer in about.layers):
        wrong = f"it takes {head.features} features, its layers have {sum(layer.features for layer in about.layers)}"
    if wrong:
        raise RequestError(f"{path}: damaged or foreign: {wrong}; fit it again with `embedcube decode fit`")
    return Decoder(head, about)


def check_fits(decoder: Decoder, cube: Cube, path: Path) -> None:
    """Refuse a cube whose vectors are of another model than those that the decoder was fitted on.

    Raises:
        RequestError: a layer is missing, or its weights or its number of features differ. Encodings may differ.
    """
    for own in decoder.about.layers:
        if own.name not in cube.layers:
            raise RequestError(
                f"{path.name} was fitted on layer {own.name}, {cube.address} has {', '.join(cube.layers)}"
            )
        (there,) = layers_used(cube, [own.name])
        if there.weights != own.weights:
            raise RequestError(
                f"{path.name} was fitted on layer {own.name} of weights {own.weights[:12]}, that of {cube.address} has "
                f"{there.weights[:12]}: another model, its numbers mean something else; fit a decoder on this cube"
            )
        if there.features != own.features:
            raise RequestError(
                f"{path.name} takes {own.features} features of {own.name}, {cube.address} has {there.features}"
            )
