"""concat: several backbones see the same chips, and their vectors stand behind each other in one vector.

Each part has its own archives of the layer, its own normalisation and its own weights, fitted or published. Its numbers
are those of a layer of its own, bit for bit: the chips come as they were read, and each part normalises them itself.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor, nn

from embedcube.backbones.base import (
    Backbone,
    Chips,
    FitSample,
    Inputs,
    ModelCard,
    Weights,
    backbone_over_time,
    leaves_masked_out,
)
from embedcube.backbones.weights import facts_of, is_ours, unpacked
from embedcube.campaign.backbone_parts import CONCAT
from embedcube.campaign.fields import nearest
from embedcube.campaign.options import PluginOptions, check_options
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout

_PREFIX = "concat."
_MEAN, _STD = "/embedcube.mean", "/embedcube.std"


def is_normalisation(name: str) -> bool:
    """Whether a tensor of the weights is the mean or the standard deviation of a part, by its name."""
    return name.startswith(_PREFIX) and name.endswith((_MEAN, _STD))


class ConcatPart(PluginOptions):
    """One of the backbones, as a layer names it."""

    backbone: dict[str, Any]
    """`name` of a backbone plugin and its own options"""
    archives: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    """archives of the layer that it sees, in this order; by default all"""
    over_time: Literal["mean", "max", "min", "concat", "diff"] | None = None
    """it sees each frame of a window alone, and this makes one vector of all; for models of single frames"""
    weights: Path | None = None
    """file of frozen weights, or of a published checkpoint; without it `fit` makes weights from the archives"""
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 that the file `weights` must have"""

    @field_validator("backbone")
    @classmethod
    def _a_single_one(cls, backbone: dict[str, Any]) -> dict[str, Any]:
        if "name" not in backbone:
            raise ValueError('a backbone needs a "name", for example {name: mosaiks}')
        if backbone["name"] == CONCAT:
            raise ValueError("a part is no concat itself: write its parts beside the others")
        return backbone


class Options(PluginOptions):
    """Options of the backbone `concat`."""

    of: tuple[ConcatPart, ...] = Field(min_length=2)
    """the backbones, in the order of their vectors: [{backbone: {name: mosaiks}, archives: [s2]}, {backbone: ...}]"""


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A part with its backbone."""

    part: ConcatPart
    backbone: Backbone
    place: str
    """key of the part, for messages"""
    bands: tuple[tuple[str, ...], ...]
    """of each of its archives"""
    archives: tuple[int, ...]
    """its archives among those of the layer"""
    channels: tuple[int, ...]
    """its channels among those of the layer"""
    over: tuple[int, ...]
    """for each of its channels, the place of its archive among its own"""


class Concat:
    """The backbone `concat`."""

    options = Options
    """options of the YAML block"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """One card: what it is made of is in the campaign."""
        return (
            ModelCard(
                model="",
                inputs="for each part, the archives that it names",
                cell="one that all parts can give",
                dimensions="those of all parts together",
                normalisation="of each part",
            ),
        )

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Refuse wrong parts, and archives that no part sees."""
        parts = check_options(Options, options, CONCAT).of
        self._channels = inputs.channels
        self._parts = [_made(part, f"{CONCAT}.of.{i}", layout, inputs) for i, part in enumerate(parts)]
        seen = {archive for made in self._parts for archive in made.archives}
        if unseen := [inputs.archives[i] for i in range(len(inputs.archives)) if i not in seen]:
            raise ValueError(f"{CONCAT}: no part sees the archive {unseen[0]}; name it in a part, or leave it out")
        backbones = [made.backbone for made in self._parts]
        self.software = tuple(dict.fromkeys(name for one in backbones for name in one.software))
        self.masks = any(map(leaves_masked_out, backbones))

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: those of all parts together."""
        return sum(made.backbone.dimensions(own) for made, own in self._of_parts(weights))

    @property
    def model(self) -> str:
        """URIs of the models of all parts, each once."""
        return " ".join(dict.fromkeys(made.backbone.model for made in self._parts))

    @property
    def fit_chips(self) -> int | None:
        """The most chips that a part without a file of weights is fitted on; None where one needs all."""
        counts = [made.backbone.fit_chips for made in self._parts if made.part.weights is None]
        return None if None in counts else max((count for count in counts if count is not None), default=0)

    def fit(self, sample: FitSample) -> Weights:
        """The weights of all parts: of their files, or from as many chips of the sample as each asks for.

        Raises:
            ValueError: a file cannot be used, or a part cannot be fitted on its sample.
        """
        tensors: dict[str, Any] = {}
        for i, made in enumerate(self._parts):
            try:
                own = _of_file(made) if made.part.weights else made.backbone.fit(_sample_for(made, sample))
            except (ValueError, OSError, RequestError) as error:
                raise ValueError(f"{made.place}: {error}") from None
            named = {_MEAN: own.mean, _STD: own.std} | {f"/{name}": tensor for name, tensor in own.tensors.items()}
            tensors |= {f"{_PREFIX}{i}{name}": tensor for name, tensor in named.items()}
        # pixels come as they were read: each part has a mean of its own
        zeros, ones = np.zeros(self._channels, np.float32), np.ones(self._channels, np.float32)
        return Weights(mean=zeros, std=ones, tensors=tensors)

    def load(self, checkpoint: bytes) -> Weights:
        """Raise a ValueError: files of weights belong to the parts."""
        raise ValueError(f"not a weights file of embedcube for this layer; name files with `weights` in {CONCAT}.of")

    def module(self, weights: Weights) -> nn.Module:
        """The modules of all parts, called one after the other."""
        modules = [_Part(made, own) for made, own in self._of_parts(weights)]
        return _Concat(modules).requires_grad_(False).eval()

    def _of_parts(self, weights: Weights) -> list[tuple[_Made, Weights]]:
        """Each part with its own weights."""
        found = []
        for i, made in enumerate(self._parts):
            start = f"{_PREFIX}{i}"
            own = {
                name.removeprefix(start): one for name, one in weights.tensors.items() if name.startswith(f"{start}/")
            }
            mean, std = own.pop(_MEAN), own.pop(_STD)
            tensors = {name.removeprefix("/"): tensor for name, tensor in own.items()}
            found.append((made, Weights(mean=mean, std=std, tensors=tensors)))
        return found


def _made(part: ConcatPart, place: str, layout: ShardLayout, inputs: Inputs) -> _Made:
    """A part with its backbone, for those of the layer's archives that it names."""
    for archive in part.archives:
        if archive not in inputs.archives:
            raise ValueError(
                f'{place}.archives: the layer has no archive "{archive}"{nearest(archive, inputs.archives)}'
            )
    if len(set(part.archives)) < len(part.archives):
        raise ValueError(f"{place}.archives: one is named twice in {', '.join(part.archives)}")
    whole = range(len(inputs.bands))
    archives = tuple(inputs.archives.index(name) for name in part.archives) if part.archives else tuple(whole)
    firsts = np.cumsum([0, *map(len, inputs.bands)]).tolist()
    bands = tuple(inputs.bands[i] for i in archives)
    names = tuple(inputs.archives[i] for i in archives) if inputs.archives else ()
    own = Inputs(bands=bands, frames=inputs.frames, archives=names)
    try:
        backbone = backbone_over_time(part.backbone, part.over_time, layout, own, place)
    except RequestError as error:
        raise ValueError(str(error)) from None
    return _Made(
        part=part,
        backbone=backbone,
        place=place,
        bands=bands,
        archives=archives,
        channels=tuple(channel for i in archives for channel in range(firsts[i], firsts[i + 1])),
        over=tuple(place for place, of in enumerate(bands) for _ in of),
    )


def _of_file(made: _Made) -> Weights:
    """The weights of a part from its file: one of embedcube, or a published checkpoint."""
    part, file = made.part, made.part.weights
    assert file is not None
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if part.weights_sha256 not in (None, digest):
        raise ValueError(f"{file} has the SHA-256 {digest}, weights_sha256 is {part.weights_sha256}")
    if not is_ours(data):
        return made.backbone.load(data)
    weights, made_for = unpacked(data, str(file))
    made_for.pop("period", None)
    expected = facts_of(part.backbone, made.bands, part.over_time)
    if made_for != expected:
        raise ValueError(f"{file}: made for {made_for}, this part asks for {expected}; name another file, or none")
    return weights


def _sample_for(made: _Made, sample: FitSample) -> FitSample:
    """The archives of a part in the chips of a sample, and as many chips as it asks for, spread over the sample."""
    count, limit = len(sample.x_ntcyx), made.backbone.fit_chips
    kept = min(count, count if limit is None else limit)
    chips = np.linspace(0, count - 1, kept).round().astype(np.int64)
    beside = {
        name: None if (of := getattr(sample, name)) is None else of[chips] for name in ("lonlat_nyxk", "dates_ntmd")
    }
    clear = sample.clear_ntsyx
    return FitSample(
        x_ntcyx=sample.x_ntcyx[chips][:, :, list(made.channels)],
        lat_ny=sample.lat_ny[chips],
        clear_ntsyx=None if clear is None else clear[chips][:, :, list(made.archives)],
        **beside,
    )


class _Part(nn.Module):
    """A part's module, for the chips of the whole layer as they were read."""

    def __init__(self, made: _Made, weights: Weights) -> None:
        super().__init__()
        self.module = made.backbone.module(weights)
        self.masks = leaves_masked_out(made.backbone)
        self._mean: Tensor
        self._std: Tensor
        for name, numbers in (("_mean", weights.mean), ("_std", weights.std)):
            self.register_buffer(name, torch.from_numpy(numbers)[:, None, None], persistent=False)
        self._archives: Tensor
        self._channels: Tensor
        self._over: Tensor
        for name, places in (("_archives", made.archives), ("_channels", made.channels), ("_over", made.over)):
            self.register_buffer(name, torch.tensor(places), persistent=False)

    def forward(self, chips: Chips) -> Tensor:
        """Vectors of the part; it is given 0 where its archive is not clear, as in a layer of its own."""
        clear = chips.clear_btsyx.index_select(2, self._archives)
        x = (chips.x_btcyx.index_select(2, self._channels) - self._mean) / self._std
        x = torch.where(clear.index_select(2, self._over), x, 0)
        vectors: Tensor = self.module(replace(chips, x_btcyx=x, clear_btsyx=clear))
        return vectors.float()


class _Concat(nn.Module):
    """The vectors of all parts behind each other."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, chips: Chips) -> Tensor:
        """Vectors (b, y, x, feature); NaN in all numbers where a part that leaves masked pixels out has no pixel."""
        vectors = [part(chips) for part in self.parts]
        whole = torch.cat(vectors, dim=-1)
        for part, own in zip(self.parts, vectors, strict=True):
            if part.masks:
                whole = torch.where(own.isnan().all(dim=-1, keepdim=True), torch.nan, whole)
        return whole
