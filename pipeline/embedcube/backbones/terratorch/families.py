"""How the families of TerraTorch's models are built, fed and read: TerraMind, Prithvi, and models of one image."""

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
"""what TerraMind calls them inside"""


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
    """none: one vector per token; mean, max (over the tokens outside of the halo) or cls: one vector per chip"""
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
"""of each layer, tokens (b, y, x, d) and, where the model has one, the vector of the whole chip (b, d)"""


class Family(Protocol):
    """A model of one kind, for certain bands."""

    mean: Sequence[float]
    """of each band of the layer"""
    std: Sequence[float]
    widths: list[int]
    """numbers in a token of each layer"""
    patch_px: list[int]
    """side of a token of each layer"""
    memory_format: torch.memory_format
    """of its weights"""

    def build(self) -> nn.Module:
        """TerraTorch's model, at a random start."""
        ...

    def adapted(self, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        """The `wanted` state dict with the tensors of a checkpoint; a ValueError where it lacks one."""
        ...

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """What the model says of some chips."""
        ...


class TerraMind:
    """One frame of one or several modalities, each of an archive."""

    memory_format = torch.contiguous_format

    def __init__(self, known: KnownModel, options: Options, inputs: Inputs) -> None:
        if len(options.modalities) != len(inputs.bands):
            raise ValueError(
                f"terratorch: {options.model} needs modalities, one of {', '.join(MODALITIES)} for each of the "
                f"layer's {len(inputs.bands)} archives; they are {list(options.modalities)}"
            )
        for modality in options.modalities:
            if modality not in MODALITIES:
                raise ValueError(f'terratorch: no modality "{modality}"; TerraMind has {", ".join(MODALITIES)}')
        if len(set(options.modalities)) < len(options.modalities):
            raise ValueError(f"terratorch: modalities {list(options.modalities)} name one twice")
        if inputs.frames != 1:
            raise ValueError(f"terratorch: {options.model} looks at 1 frame, a window has {inputs.frames}")
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
        """With patch embeddings for the bands there are."""
        bands = {m: [TERRATORCH_BAND[band] for band in names] for m, names in self._bands.items()}
        modalities = list(self._options.modalities)
        arguments = {"modalities": modalities, "bands": bands, "merge_method": self._options.merge}
        model = build(self._options.model, arguments)
        token = getattr(model, "missing_mod_token", None)
        if isinstance(token, nn.Parameter):  # allocated, never filled, and without use where all are there
            nn.init.zeros_(token)
        return model

    def adapted(self, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder, its patch embeddings cut to the bands there are."""
        for modality, names in self._bands.items():
            key, norm = f"encoder_embeddings.{_MODALITY_KEY[modality]}.proj.weight", MODALITIES[modality]
            whole = found.get(key)
            if whole is not None and whole.ndim == 2 and whole.shape[1] == len(norm.bands) * self._known.patch_px**2:
                picked = [norm.bands.index(name) for name in names]
                found = found | {key: whole.unflatten(1, (-1, len(norm.bands)))[..., picked].flatten(1)}
        # positions are computed, and TerraTorch does not ask for them either
        return taken(self._options.model, found, wanted, ("pos_emb", "missing_mod_token"))

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Tokens, those of several modalities merged by TerraTorch."""
        x_bcyx = chips.x_btcyx[:, 0]
        outputs = model({modality: x_bcyx[:, picked] for modality, picked in self._channels.items()})
        side = x_bcyx.shape[-1] // self._known.patch_px
        return [(tokens.unflatten(1, (side, side)), None) for tokens in outputs]


class Prithvi:
    """Six bands in 1 to 4 frames."""

    memory_format = torch.contiguous_format

    def __init__(self, known: KnownModel, options: Options, inputs: Inputs) -> None:
        _refuse_modalities(options)
        if inputs.frames > MOST_FRAMES:
            raise ValueError(f"terratorch: {options.model} knows {MOST_FRAMES} frames, a window has {inputs.frames}")
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
        """With a patch embedding for the bands there are, and positions for the frames."""
        bands = [TERRATORCH_BAND[band] for band in self._bands]
        return build(self._options.model, {"bands": bands, "num_frames": self._frames})

    def adapted(self, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder, its patch embedding cut to the bands there are."""
        # the encoder of the published autoencoder, or an encoder alone
        found = {name.replace("_timm_module.", "").removeprefix("encoder."): t for name, t in found.items()}
        key, norm = "patch_embed.proj.weight", self._known.normalisation
        assert norm is not None
        if key in found and found[key].ndim > 1 and found[key].shape[1] == len(norm.bands):
            found[key] = found[key][:, [norm.bands.index(name) for name in self._bands]]
        found.pop("pos_embed", None)  # computed, for as many frames as there are
        return taken(self._options.model, found, wanted, ("pos_embed",))

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Tokens of all frames, and the class token."""
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
    """A model of one image that gives feature maps: a CNN, or a transformer that says its tokens so.

    What it takes and gives is not in our table: a chip of zeros is shown to it once.
    """

    memory_format = torch.channels_last

    def __init__(self, options: Options, chip_px: int, inputs: Inputs) -> None:
        """Refuses several frames, and a campaign that does not say the normalisation."""
        _refuse_modalities(options)
        _refuse_cls(options)
        if inputs.frames != 1:
            raise ValueError(f"terratorch: {options.model} looks at 1 frame, a window has {inputs.frames}")
        if options.without:
            raise ValueError(f"terratorch: {options.model} takes the bands it is given; leave `without` out")
        if not options.mean:
            raise ValueError(
                f"terratorch: no table here knows the normalisation of {options.model}: say mean and std, a number for "
                f"each of the layer's {inputs.channels} bands; `embedcube models` lists those that are known"
            )
        self.mean: Sequence[float] = options.mean
        self.std: Sequence[float] = options.std
        self._model, self._channels = options.model, inputs.channels
        shown = _shown(options.model, inputs.channels, chip_px)
        self.widths, self.patch_px = list(shown.widths), list(shown.patch_px)

    def build(self) -> nn.Module:
        """With as many input channels as the layer has bands."""
        return _image_model(self._model, self._channels)

    def adapted(self, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return taken(self._model, found, wanted)

    def call(self, model: nn.Module, chips: Chips) -> Outputs:
        """Feature maps."""
        # as the model's own convolutions: cuDNN and oneDNN would else turn every map around and back
        x_bcyx = chips.x_btcyx[:, 0].contiguous(memory_format=torch.channels_last)
        return [(maps.permute(0, 2, 3, 1), None) for maps in model(x_bcyx)]


@dataclass(frozen=True, kw_only=True)
class _Shown:
    widths: tuple[int, ...]
    patch_px: tuple[int, ...]


@lru_cache(maxsize=16)
def _shown(name: str, channels: int, chip_px: int) -> _Shown:
    """What an image model gives for a chip of zeros."""
    model = _image_model(name, channels).eval()
    with torch.inference_mode():
        maps = model(torch.zeros(1, channels, chip_px, chip_px))
    if not isinstance(maps, list | tuple) or any(not isinstance(one, Tensor) or one.ndim != 4 for one in maps):
        raise ValueError(f"terratorch: {name} does not give a list of feature maps (batch, channel, y, x)")
    for one in maps:
        if one.shape[2] != one.shape[3] or chip_px % one.shape[2]:
            raise ValueError(f"terratorch: {name} makes maps of {tuple(one.shape[2:])} of a chip of {chip_px} px")
    return _Shown(
        widths=tuple(one.shape[1] for one in maps),
        patch_px=tuple(chip_px // one.shape[2] for one in maps),
    )


def _image_model(name: str, channels: int) -> nn.Module:
    # timm's word for the number of bands; those of TerraTorch itself that do not know it say so
    return build(name, {"in_chans": channels})


@dataclass(frozen=True, kw_only=True)
class _Selected:
    """The bands that a model is to look at, in its own order."""

    names: tuple[str, ...]
    channels: list[int]
    """where each lies among the bands given"""
    mean: list[float]
    """of the bands given, in their order"""
    std: list[float]


def _selected(model: str, norm: Normalisation, given: Sequence[str], without: Sequence[str]) -> _Selected:
    names = [spelled(band) for band in given]
    for band, name in zip(given, names, strict=True):
        if name not in norm.bands:
            raise ValueError(
                f'terratorch: {model} has no use for the band "{band}"; it looks at {", ".join(norm.bands)}'
            )
        if names.count(name) > 1:
            raise ValueError(f"terratorch: {model} is given {name} twice")
    left_out = {spelled(band) for band in without} & set(norm.bands)
    missing = [name for name in norm.bands if name not in names and name not in left_out]
    if missing:
        raise ValueError(
            f"terratorch: {model} looks at {', '.join(missing)}, which the layer has not; name it with the archive's "
            f"bands, or say `without: [{', '.join(missing)}]` to have the model do without"
        )
    if both := sorted(left_out & set(names)):
        raise ValueError(f"terratorch: {both[0]} is both given and left out (`without`)")
    if not names:
        raise ValueError(f"terratorch: {model} is given no band")
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
            raise ValueError(f'terratorch: {options.model} does not look at "{band}", so it cannot do without it')


def _refuse_modalities(options: Options) -> None:
    if options.modalities:
        raise ValueError(f"terratorch: {options.model} has no modalities, TerraMind has")


def _refuse_cls(options: Options) -> None:
    if options.pooling == "cls":
        raise ValueError(f"terratorch: {options.model} has no class token; pooling may be none, mean or max")


def _dates(chips: Chips) -> Tensor:
    """(b, t, 2): year, and day of the year from 0, of the middle of each frame."""
    year_t, day_t = chips.dates_tmd[:, 1, 0], chips.dates_tmd[:, 1, 2] - 1
    return torch.stack([year_t, day_t], dim=-1).float().expand(len(chips.x_btcyx), -1, -1)


def _places(chips: Chips) -> Tensor:
    """(b, 2): latitude and longitude of the cell at the chip's centre."""
    middle = chips.lonlat_byxn.shape[1] // 2
    return chips.lonlat_byxn[:, middle, middle].flip(-1)
