"""Families of TerraTorch's models (TerraMind, Prithvi, image models): building, inputs, outputs, checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from embedcube.backbones.base import Chips, Inputs
from embedcube.backbones.checkpoint import taken
from embedcube.backbones.normalisation import MODALITIES, Normalisation, spelled
from embedcube.backbones.terratorch.models import MOST_FRAMES, TERRATORCH_BAND, KnownModel
from embedcube.backbones.terratorch.registry import build
from embedcube.backbones.tokens import Pooling
from embedcube.campaign.options import PluginOptions

_MODALITY_KEY = {
    "S2L2A": "untok_sen2l2a@224",
    "S2L1C": "untok_sen2l1c@224",
    "S1GRD": "untok_sen1grd@224",
    "S1RTC": "untok_sen1rtc@224",
    "DEM": "untok_dem@224",
}
"""names of the modalities inside TerraMind"""


class Options(PluginOptions):
    """Options of the backbone `terratorch`."""

    model: str
    """name of a model in TerraTorch's BACKBONE_REGISTRY; `embedcube models` lists them"""
    modalities: tuple[str, ...] = ()
    """TerraMind only: the modality of each archive of the layer, in their order"""
    without: tuple[str, ...] = ()
    """bands of the model that the layer does not have; the patch embedding then has no weights for them"""
    layers: tuple[int, ...] = Field((-1,), min_length=1)
    """layers of the model whose outputs are concatenated into a vector; -1 is the last"""
    pooling: Pooling = "none"
    """none: one vector per token; mean, max, min (over the tokens outside of the halo) or cls: one vector per chip"""
    merge: Literal["mean", "max", "concat"] = "mean"
    """TerraMind only: how the tokens of several modalities are combined"""
    frames: Literal["concat", "mean"] = "concat"
    """Prithvi only: how the tokens of several frames are combined; TerraTorch itself concatenates them"""
    mean: tuple[float, ...] = ()
    """mean of each band of the layer, in their order, in place of the model's own"""
    std: tuple[float, ...] = ()
    """standard deviation of each band of the layer, in their order, in place of the model's own"""
    random_seed: int | None = None
    """seed of random weights, to test a campaign; without it the layer must name `weights`"""

    @field_validator("layers")
    @classmethod
    def _once(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(layers)) < len(layers):
            raise ValueError(f"{list(layers)} names a layer twice")
        return layers


Outputs = list[tuple[Tensor, Tensor | None]]
"""for each layer: tokens (b, y, x, d), and the class token of the chip (b, d), None where the model has none"""


class Family(Protocol):
    """A model of one family, for the bands of a layer."""

    mean: Sequence[float]
    """mean of each band of the layer"""
    std: Sequence[float]
    """standard deviation of each band of the layer"""
    widths: list[int]
    """values in a token, for each layer of the model"""
    patch_px: list[int]
    """side of a token in pixels, for each layer of the model"""
    memory_format: torch.memory_format
    """memory format of the weights"""

    def build(self) -> nn.Module:
        """TerraTorch's model, with random weights."""
        ...

    def adapted(self, published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's `own` state dict with the tensors of a checkpoint; a ValueError where one is missing."""
        ...

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Outputs of the model's layers for a batch of chips."""
        ...


class TerraMind:
    """TerraMind: one frame of one or several modalities, one modality per archive."""

    memory_format = torch.contiguous_format

    def __init__(self, known: KnownModel, options: Options, inputs: Inputs) -> None:
        """Refuse modalities, bands and frames that do not suit the model."""
        if len(options.modalities) != len(inputs.bands):
            raise ValueError(
                f"terratorch.modalities: {options.model} needs one of {', '.join(MODALITIES)} for each of the "
                f"layer's {len(inputs.bands)} archives; they are {list(options.modalities)}"
            )
        for modality in options.modalities:
            if modality not in MODALITIES:
                raise ValueError(
                    f'terratorch.modalities: no modality "{modality}"; TerraMind has {", ".join(MODALITIES)}'
                )
        if len(set(options.modalities)) < len(options.modalities):
            raise ValueError(f"terratorch.modalities: {list(options.modalities)} names one twice")
        if inputs.frames != 1:
            raise ValueError(
                f"terratorch: {options.model} takes 1 frame, a window has {inputs.frames}; leave `frames` out"
            )
        _refuse_cls(options)
        self._known, self._options = known, options
        norms = [MODALITIES[modality] for modality in options.modalities]
        _refuse_unused(options, norms)
        self._bands: dict[str, tuple[str, ...]] = {}
        self._channels: dict[str, list[int]] = {}
        means: list[float] = []
        stds: list[float] = []
        for modality, norm, bands in zip(options.modalities, norms, inputs.bands, strict=True):
            selected = _selected(f"{options.model} ({modality})", norm, bands, options.without)
            self._bands[modality] = selected.names
            self._channels[modality] = [len(means) + channel for channel in selected.channels]
            means += selected.mean
            stds += selected.std
        self.mean: Sequence[float] = means
        self.std: Sequence[float] = stds
        width = known.width * (len(norms) if options.merge == "concat" else 1)
        self.widths = [width] * known.blocks
        self.patch_px = [known.patch_px] * known.blocks

    def build(self) -> nn.Module:
        """TerraMind with patch embeddings for the layer's bands."""
        bands = {m: [TERRATORCH_BAND[band] for band in names] for m, names in self._bands.items()}
        modalities = list(self._options.modalities)
        arguments = {"modalities": modalities, "bands": bands, "merge_method": self._options.merge}
        model = build(self._options.model, arguments)
        token = getattr(model, "missing_mod_token", None)
        if isinstance(token, nn.Parameter):  # TerraTorch leaves it uninitialised; unused, as no modality is missing
            nn.init.zeros_(token)
        return model

    def adapted(self, published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder, with its patch embeddings cut to the layer's bands."""
        for modality, names in self._bands.items():
            key, norm = f"encoder_embeddings.{_MODALITY_KEY[modality]}.proj.weight", MODALITIES[modality]
            whole = published.get(key)
            if whole is not None and whole.ndim == 2 and whole.shape[1] == len(norm.bands) * self._known.patch_px**2:
                picked = [norm.bands.index(name) for name in names]
                published = published | {key: whole.unflatten(1, (-1, len(norm.bands)))[..., picked].flatten(1)}
        # positions are computed; TerraTorch does not load them either
        return taken(self._options.model, published, own, ("pos_emb", "missing_mod_token"))

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Tokens of each layer; TerraTorch merges those of several modalities."""
        x_bcyx = chips.x_btcyx[:, 0]
        outputs = model({modality: x_bcyx[:, picked] for modality, picked in self._channels.items()})
        side = x_bcyx.shape[-1] // self._known.patch_px
        return [(tokens.unflatten(1, (side, side)), None) for tokens in outputs]


class Prithvi:
    """Prithvi: six bands in 1 to 4 frames."""

    memory_format = torch.contiguous_format

    def __init__(self, known: KnownModel, options: Options, inputs: Inputs) -> None:
        """Refuse bands and frames that do not suit the model."""
        _refuse_modalities(options)
        if inputs.frames > MOST_FRAMES:
            raise ValueError(
                f"terratorch: {options.model} takes {MOST_FRAMES} frames at most, a window has {inputs.frames}"
            )
        assert known.normalisation is not None
        _refuse_unused(options, [known.normalisation])
        self._known, self._options, self._frames = known, options, inputs.frames
        bands = tuple(band for archive in inputs.bands for band in archive)
        selected = _selected(options.model, known.normalisation, bands, options.without)
        self._bands, self._channels = selected.names, selected.channels
        self.mean: Sequence[float] = selected.mean
        self.std: Sequence[float] = selected.std
        width = known.width * (inputs.frames if options.frames == "concat" else 1)
        self.widths = [width] * known.blocks
        self.patch_px = [known.patch_px] * known.blocks

    def build(self) -> nn.Module:
        """Prithvi with a patch embedding for the layer's bands, and positions for its frames."""
        bands = [TERRATORCH_BAND[band] for band in self._bands]
        return build(self._options.model, {"bands": bands, "num_frames": self._frames})

    def adapted(self, published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder, with its patch embedding cut to the layer's bands."""
        # the encoder of the published autoencoder, or an encoder alone
        state = {name.replace("_timm_module.", "").removeprefix("encoder."): t for name, t in published.items()}
        key, norm = "patch_embed.proj.weight", self._known.normalisation
        assert norm is not None
        if key in state and state[key].ndim > 1 and state[key].shape[1] == len(norm.bands):
            state[key] = state[key][:, [norm.bands.index(name) for name in self._bands]]
        state.pop("pos_embed", None)  # computed, for the layer's number of frames
        return taken(self._options.model, state, own, ("pos_embed",))

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Tokens of each layer, its frames combined, and the class token."""
        x_bctyx = chips.x_btcyx[:, :, self._channels].transpose(1, 2)
        when, where = (_dates(chips), _places(chips)) if self._known.coordinates else (None, None)
        side = x_bctyx.shape[-1] // self._known.patch_px
        outputs: Outputs = []
        for all_bnd in model(x_bctyx, when, where):
            tokens_btyxd = all_bnd[:, 1:].unflatten(1, (self._frames, side, side))
            if self._options.frames == "concat":
                tokens_byxd = tokens_btyxd.permute(0, 2, 3, 1, 4).flatten(3)
            else:
                tokens_byxd = tokens_btyxd.mean(dim=1)
            outputs.append((tokens_byxd, all_bnd[:, 0]))
        return outputs


class Image:
    """A model of one image that gives feature maps: a CNN, or a transformer that returns its tokens as maps.

    Its widths and strides are in no table here: they are found by one forward pass of a chip of zeros.
    """

    memory_format = torch.channels_last

    def __init__(self, options: Options, chip_px: int, inputs: Inputs) -> None:
        """Refuse several frames, and a campaign without mean and std."""
        _refuse_modalities(options)
        _refuse_cls(options)
        if inputs.frames != 1:
            raise ValueError(
                f"terratorch: {options.model} takes 1 frame, a window has {inputs.frames}; leave `frames` out"
            )
        if options.without:
            raise ValueError(f"terratorch.without: {options.model} takes all bands of the layer; leave `without` out")
        if not options.mean:
            raise ValueError(
                f"terratorch: the normalisation of {options.model} is not known: give mean and std, a number "
                f"for each of the layer's {inputs.channels} bands; `embedcube models` lists those that are known"
            )
        self.mean: Sequence[float] = options.mean
        self.std: Sequence[float] = options.std
        self._model, self._channels = options.model, inputs.channels
        shown = _shown(options.model, inputs.channels, chip_px)
        self.widths, self.patch_px = list(shown.widths), list(shown.patch_px)

    def build(self) -> nn.Module:
        """The model with as many input channels as the layer has bands."""
        return _image_model(self._model, self._channels)

    def adapted(self, published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published tensors, unchanged."""
        return taken(self._model, published, own)

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Feature maps of each layer, as tokens."""
        # like the weights: otherwise cuDNN and oneDNN would convert every map and back
        x_bcyx = chips.x_btcyx[:, 0].contiguous(memory_format=torch.channels_last)
        return [(maps.permute(0, 2, 3, 1), None) for maps in model(x_bcyx)]


@dataclass(frozen=True, kw_only=True)
class _Shown:
    widths: tuple[int, ...]
    patch_px: tuple[int, ...]


@lru_cache(maxsize=16)
def _shown(name: str, channels: int, chip_px: int) -> _Shown:
    """Widths and patch sizes of an image model's feature maps, found with a chip of zeros."""
    model = _image_model(name, channels).eval()
    with torch.inference_mode():
        maps = model(torch.zeros(1, channels, chip_px, chip_px))
    if not isinstance(maps, list | tuple) or any(not isinstance(one, Tensor) or one.ndim != 4 for one in maps):
        raise ValueError(f"terratorch: {name} does not give a list of feature maps (batch, channel, y, x)")
    for one in maps:
        if one.shape[2] != one.shape[3] or chip_px % one.shape[2]:
            raise ValueError(
                f"terratorch: {name} makes maps of {tuple(one.shape[2:])} pixels from a chip of {chip_px} px"
            )
    return _Shown(
        widths=tuple(one.shape[1] for one in maps),
        patch_px=tuple(chip_px // one.shape[2] for one in maps),
    )


def _image_model(name: str, channels: int) -> nn.Module:
    # timm's argument for the number of bands; a model of TerraTorch without it raises an error
    return build(name, {"in_chans": channels})


@dataclass(frozen=True, kw_only=True)
class _Selected:
    """The bands of a layer that a model takes, in the model's order."""

    names: tuple[str, ...]
    channels: list[int]
    """index of each band among the layer's bands"""
    mean: list[float]
    """mean of each band of the layer, in the layer's order"""
    std: list[float]
    """standard deviation of each band of the layer, in the layer's order"""


def _selected(model: str, norm: Normalisation, given: Sequence[str], without: Sequence[str]) -> _Selected:
    names = [spelled(band) for band in given]
    for band, name in zip(given, names, strict=True):
        if name not in norm.bands:
            raise ValueError(f'terratorch: {model} does not take the band "{band}"; it takes {", ".join(norm.bands)}')
        if names.count(name) > 1:
            raise ValueError(f"terratorch: the layer has the band {name} of {model} twice")
    left_out = {spelled(band) for band in without} & set(norm.bands)
    missing = [name for name in norm.bands if name not in names and name not in left_out]
    if missing:
        raise ValueError(
            f"terratorch: {model} takes {', '.join(missing)}, which the layer does not have; add it to the archive's "
            f"bands, or write `without: [{', '.join(missing)}]` to run the model without it"
        )
    if both := sorted(left_out & set(names)):
        raise ValueError(f"terratorch.without: {both[0]} is a band of the layer; remove it from one of the two")
    if not names:
        raise ValueError(f"terratorch: the layer has no band for {model}")
    order = tuple(name for name in norm.bands if name in names)
    return _Selected(
        names=order,
        channels=[names.index(name) for name in order],
        mean=[norm.of[name][0] for name in names],
        std=[norm.of[name][1] for name in names],
    )


def _refuse_unused(options: Options, norms: Sequence[Normalisation]) -> None:
    for band in options.without:
        if not any(spelled(band) in norm.bands for norm in norms):
            raise ValueError(f'terratorch.without: {options.model} does not take "{band}"; remove it there')


def _refuse_modalities(options: Options) -> None:
    if options.modalities:
        raise ValueError(f"terratorch.modalities: {options.model} has none, only TerraMind has; leave the option out")


def _refuse_cls(options: Options) -> None:
    if options.pooling == "cls":
        raise ValueError(f"terratorch.pooling: {options.model} has no class token; pooling may be none, mean or max")


def _dates(chips: Chips) -> Tensor:
    """Dates (b, t, 2) of the middle of each frame: year, and day of the year from 0."""
    year_t, day_t = chips.dates_tmd[:, 1, 0], chips.dates_tmd[:, 1, 2] - 1
    return torch.stack([year_t, day_t], dim=-1).float().expand(len(chips.x_btcyx), -1, -1)


def _places(chips: Chips) -> Tensor:
    """Latitude and longitude (b, 2) of the cell at the chip's centre, in degrees."""
    middle = chips.lonlat_byxn.shape[1] // 2
    return chips.lonlat_byxn[:, middle, middle].flip(-1)
