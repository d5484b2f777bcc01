"""Presto: radar, optics, weather and terrain of one pixel through time (Tseng et al. 2023, arXiv:2304.14065).

Each channel group gives one token per frame, terrain one for all frames, the place one more. Two transformer blocks
process the tokens, and the vector is the normalised mean over them. A group without a clear pixel in a frame has no
token there: it is neither attended to nor averaged. So radar alone, or a year with cloudy months, has a vector too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.backbones.checkpoint import as_arrays, state_dict_of, taken
from embedcube.campaign.options import PluginOptions, check_options
from embedcube.grid import ShardLayout

WIDTH = 128

MOST_FRAMES = 24
"""frames that Presto was trained with: it has as many positions"""

MONTH_WIDTH, GROUP_WIDTH, POSITION_WIDTH = 32, 32, 64
"""widths of the three embeddings that are concatenated and added to a token"""

HEADS, BLOCKS, HIDDEN = 8, 2, 512

LAND_CLASSES = 9
"""classes of Dynamic World, 0 to 8; 9 means missing"""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A measured channel and its normalisation, (value - mean) / std."""

    names: tuple[str, ...]
    """names of the band in a campaign, in lower case"""
    mean: float
    std: float


def _reflectance(*names: str) -> Channel:
    return Channel(names=names, mean=0, std=10_000)


CHANNELS = (
    Channel(names=("vv",), mean=-25, std=25),  # dB
    Channel(names=("vh",), mean=-25, std=25),
    _reflectance("b02", "b2"),  # DN, offset removed
    _reflectance("b03", "b3"),
    _reflectance("b04", "b4"),
    _reflectance("b05", "b5"),
    _reflectance("b06", "b6"),
    _reflectance("b07", "b7"),
    _reflectance("b08", "b8"),
    _reflectance("b8a"),
    _reflectance("b11"),
    _reflectance("b12"),
    Channel(names=("t2m", "2t", "temperature_2m"), mean=272.15, std=35),  # K
    Channel(names=("tp", "total_precipitation"), mean=0, std=0.03),  # m in a month
    Channel(names=("elevation",), mean=0, std=2000),  # m
    Channel(names=("slope",), mean=0, std=50),  # degrees
)

RED, NEAR_INFRARED, TERRAIN, NDVI = 4, 8, slice(14, 16), 16
"""indices of channels; NDVI follows the measured ones and is computed here"""

GROUPS: dict[str, tuple[int, ...]] = {
    "S1": (0, 1),
    "S2_RGB": (2, 3, 4),
    "S2_Red_Edge": (5, 6, 7),
    "S2_NIR_10m": (8,),
    "S2_NIR_20m": (9,),
    "S2_SWIR": (10, 11),
    "ERA5": (12, 13),
    "SRTM": (14, 15),
    "NDVI": (16,),
}
"""channels that form one token, in the order of the tokens and of their embeddings"""

_PIXELS = 32
"""pixels embedded at once, always: fewer make small matrix products, more exceed the processor's cache. Measured on two
cores: 13 s for 10,000 pixels of 12 frames, 28 s with pieces of 128"""


class Options(PluginOptions):
    """Options of the backbone `presto`: none."""


class Presto:
    """The backbone `presto`: cells of one pixel, up to 24 frames, bands by name, from any number of archives.

    Bands: VV and VH (dB), B2 to B8, B8A, B11 and B12 (DN, offset removed; B02 is B2), t2m (K), tp (m per month),
    elevation (m) and slope (degrees). A channel group whose bands the layer lacks (B8A, or radar) has no tokens; a
    group has none in a frame where one of its archives is masked. NDVI is computed where B4 and B8 are clear. Terrain
    is that of the first frame in which it is clear. Dynamic World is not an input: its tokens are always missing.
    """

    options = Options
    """options of the YAML block"""

    software: tuple[str, ...] = ()
    """no package beyond torch computes vectors"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """One card, as `presto` is a single model."""
        return (
            ModelCard(
                model="",
                inputs=f"{', '.join(c.names[0] for c in CHANNELS)}; some of them, 1 to {MOST_FRAMES} frames",
                cell="1 px",
                dimensions=f"{WIDTH}",
                normalisation="Presto's own (Tseng et al. 2023)",
            ),
        )

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Refuse options, cells of more than a pixel, halos, too many frames, and bands that Presto cannot use."""
        check_options(Options, options, "presto")
        if layout.cell_px != 1 or layout.halo_px != 0:
            raise ValueError(
                f"presto embeds single pixels: cell_px must be 1 and halo_px 0, "
                f"they are {layout.cell_px} and {layout.halo_px}"
            )
        if inputs.frames > MOST_FRAMES:
            raise ValueError(
                f"presto takes {MOST_FRAMES} frames at most, a window has {inputs.frames}; use longer frames or "
                "shorter windows"
            )
        named = [(archive, band) for archive, bands in enumerate(inputs.bands) for band in bands]
        self._channels = _known([band for _, band in named])
        self._archives = [archive for archive, _ in named]
        self._groups = _filled(dict(zip(self._channels, (band for _, band in named), strict=True)))

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: the width of the encoder."""
        return WIDTH

    @property
    def model(self) -> str:
        """URI of the paper."""
        return "https://doi.org/10.48550/arXiv.2304.14065"

    @property
    def fit_chips(self) -> int:
        """0: nothing is fitted, because the weights are published."""
        return 0

    def fit(self, sample: FitSample) -> Weights:
        """Raise a ValueError: the weights are published, and cannot be fitted here."""
        raise ValueError("presto cannot be fitted here: name its published checkpoint with the layer's key `weights`")

    def load(self, checkpoint: bytes) -> Weights:
        """The encoder of the published state dict; the decoder, which only training needs, is left out."""
        expected = {f"encoder.{name}": tensor for name, tensor in Encoder(tuple(GROUPS)).state_dict().items()}
        published = state_dict_of(checkpoint)
        for name, tensor in published.items():
            if name.startswith("encoder.") and (name not in expected or tensor.dtype != expected[name].dtype):
                problem = f"not {expected[name].dtype}" if name in expected else "which Presto does not have"
                raise ValueError(f"not a checkpoint of Presto: {name} is {tensor.dtype}, {problem}")
        encoder = taken("Presto", published, expected)
        channels = [CHANNELS[channel] for channel in self._channels]
        return Weights(
            mean=np.array([channel.mean for channel in channels], dtype=np.float32),
            std=np.array([channel.std for channel in channels], dtype=np.float32),
            tensors=as_arrays({name.removeprefix("encoder."): tensor for name, tensor in encoder.items()}),
        )

    def module(self, weights: Weights) -> nn.Module:
        """The encoder, applied to each pixel of a batch."""
        encoder = Encoder(self._groups)
        encoder.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.tensors.items()})
        return _EachPixel(encoder, self._channels, self._archives).requires_grad_(False).eval()


def _known(bands: list[str]) -> list[int]:
    """The channel of each band."""
    channel_of = {name: i for i, channel in enumerate(CHANNELS) for name in channel.names}
    channels: list[int] = []
    for band in bands:
        channel = channel_of.get(band.lower())
        if channel is None:
            known = ", ".join(channel.names[0] for channel in CHANNELS)
            raise ValueError(f'presto does not know the band "{band}"; it knows {known} and other spellings of these')
        if channel in channels:
            raise ValueError(f'presto: the bands "{bands[channels.index(channel)]}" and "{band}" are one channel')
        channels.append(channel)
    return channels


def _filled(bands: dict[int, str]) -> tuple[str, ...]:
    """Groups that have all their channels among `bands` (channel -> band); each band must belong to such a group."""
    needs = GROUPS | {"NDVI": (RED, NEAR_INFRARED)}
    filled = tuple(group for group, channels in needs.items() if bands.keys() >= set(channels))
    for channel, band in bands.items():
        if not any(channel in needs[group] for group in filled):
            group = next(group for group, channels in needs.items() if channel in channels)
            missing = ", ".join(CHANNELS[other].names[0] for other in needs[group] if other not in bands)
            raise ValueError(
                f'presto: band "{band}" is of no use without {missing}; add these to the layer, or leave it out'
            )
    return filled


class _EachPixel(nn.Module):
    """Chips -> vectors, a fixed number of pixels at a time, so that the bits of a pixel depend on no other."""

    def __init__(self, encoder: "Encoder", channels: list[int], archives: list[int]) -> None:
        super().__init__()
        self._encoder = encoder
        # index of each channel's band and archive; 0, a column of zeros put in front, for a channel without a band
        band_of = {channel: 1 + band for band, channel in enumerate(channels)}
        archive_of = {channel: 1 + archive for channel, archive in zip(channels, archives, strict=True)}
        self._band: Tensor
        self._archive: Tensor
        for name, sources in {"_band": band_of, "_archive": archive_of}.items():
            indices = torch.tensor([sources.get(channel, 0) for channel in range(len(CHANNELS))])
            self.register_buffer(name, indices, persistent=False)

    def forward(self, chips: Chips) -> Tensor:
        x_byxtc = chips.x_btcyx.permute(0, 3, 4, 1, 2)
        clear_byxts = chips.clear_btsyx.permute(0, 3, 4, 1, 2)
        shape = x_byxtc.shape[:3]
        device = x_byxtc.device
        month_nt = (chips.dates_tmd[:, 0, 1] - 1).expand(_PIXELS, -1)
        pixels = shape.numel()
        vectors_nd = x_byxtc.new_empty((pixels, WIDTH))
        for first in range(0, pixels, _PIXELS):
            # the last piece is padded with the last pixel
            numbers = torch.arange(first, first + _PIXELS, device=device).clamp(max=pixels - 1)
            places = torch.unravel_index(numbers, shape)
            x_ntc, clear_ntc = self._channels(x_byxtc[places], clear_byxts[places])
            vectors = self._encoder(x_ntc, clear_ntc, chips.lonlat_byxn[places], month_nt)
            vectors_nd[first : first + _PIXELS] = vectors[: pixels - first]
        return vectors_nd.view(*shape, WIDTH)

    def _channels(self, x_ntc: Tensor, clear_nts: Tensor) -> tuple[Tensor, Tensor]:
        """The 17 channels in Presto's order, and where each is clear."""
        x = functional.pad(x_ntc, (1, 0))[..., self._band]
        clear = functional.pad(clear_nts, (1, 0))[..., self._archive]
        # terrain may have one date only: the first clear frame stands for the whole window
        clear_nt = clear[..., TERRAIN].all(dim=-1)
        first_n = clear_nt.byte().argmax(dim=1)
        x[:, 0, TERRAIN] = x[torch.arange(len(x), device=x.device), first_n, TERRAIN]
        clear[:, 0, TERRAIN] = clear_nt.any(dim=1, keepdim=True)
        red, infrared = x[..., RED], x[..., NEAR_INFRARED]
        ndvi = torch.where(infrared + red > 0, (infrared - red) / (infrared + red), 0)
        return (
            torch.cat([x, ndvi[..., None]], dim=-1),
            torch.cat([clear, (clear[..., RED] & clear[..., NEAR_INFRARED])[..., None]], dim=-1),
        )


class Encoder(nn.Module):
    """Presto's encoder; its parameters have the names of the published state dict."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        """Make tokens of `groups` only: channels of any other group must be masked everywhere."""
        super().__init__()
        self._groups = groups
        self.pos_embed = nn.Parameter(torch.zeros(1, MOST_FRAMES, POSITION_WIDTH))
        self.month_embed = nn.Embedding(12, MONTH_WIDTH)
        self.channel_embed = nn.Embedding(len(GROUPS) + 1, GROUP_WIDTH)
        self.eo_patch_embed = nn.ModuleDict({name: nn.Linear(len(of), WIDTH) for name, of in GROUPS.items()})
        self.dw_embed = nn.Embedding(LAND_CLASSES + 1, WIDTH)
        self.latlon_embed = nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(
        self,
        x_ntc: Tensor,
        clear_ntc: Tensor,
        lonlat_nk: Tensor,
        month_nt: Tensor,
        dynamic_world_nt: Tensor | None = None,
    ) -> Tensor:
        """Vectors (n, WIDTH) of n pixels.

        Args:
            x_ntc: the 17 channels, normalised; masked values are ignored.
            clear_ntc: a token is dropped where a channel of its group is masked.
            lonlat_nk: longitude and latitude, degrees.
            month_nt: month of each frame, 0 to 11.
            dynamic_world_nt: land classes 0 to 8; the token of class 9 (missing) is dropped. None: no such tokens.
        """
        x_ntc = x_ntc.where(clear_ntc, 0)
        tokens = [self.latlon_embed(_unit_sphere(lonlat_nk))[:, None]]
        kept = [torch.ones_like(clear_ntc[:, :1, 0])]
        month_ntd = self.month_embed(month_nt)
        for name in self._groups:
            steps = slice(0, 1) if name == "SRTM" else slice(None)
            channels = list(GROUPS[name])
            group = self.eo_patch_embed[name](x_ntc[:, steps, channels])
            tokens.append(group + self._addition(month_ntd, list(GROUPS).index(name)))
            kept.append(clear_ntc[:, steps, channels].all(dim=-1))
        if dynamic_world_nt is not None:
            tokens.append(self.dw_embed(dynamic_world_nt) + self._addition(month_ntd, len(GROUPS)))
            kept.append(dynamic_world_nt < LAND_CLASSES)
        return self._encoded(torch.cat(tokens, dim=1), torch.cat(kept, dim=1))

    def _addition(self, month_ntd: Tensor, group: int) -> Tensor:
        """Embeddings of month, group and position, added to a group's tokens; terrain has only that of its group."""
        n, steps, _ = month_ntd.shape
        embedding = self.channel_embed.weight[group]
        if group == list(GROUPS).index("SRTM"):
            return functional.pad(embedding, (MONTH_WIDTH, POSITION_WIDTH))
        position = self.pos_embed[:, :steps].expand(n, -1, -1)
        return torch.cat([month_ntd, embedding.expand(n, steps, -1), position], dim=-1)

    def _encoded(self, tokens_nld: Tensor, kept_nl: Tensor) -> Tensor:
        for block in self.blocks:
            tokens_nld = block(tokens_nld, kept_nl)
        share_nl = kept_nl / kept_nl.sum(dim=1, keepdim=True)
        mean_nd = (share_nl[:, None] @ tokens_nld)[:, 0]
        return torch.as_tensor(self.norm(mean_nd))


class _Block(nn.Module):
    """Attention and a perceptron, each after a normalisation and with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, HIDDEN), "fc2": nn.Linear(HIDDEN, WIDTH)})

    def forward(self, tokens_nld: Tensor, kept_nl: Tensor) -> Tensor:
        tokens_nld = tokens_nld + self._attention(self.norm1(tokens_nld), kept_nl)
        hidden = functional.gelu(self.mlp["fc1"](self.norm2(tokens_nld)))
        return torch.as_tensor(tokens_nld + self.mlp["fc2"](hidden))

    def _attention(self, tokens_nld: Tensor, kept_nl: Tensor) -> Tensor:
        qkv = self.attn["qkv"](tokens_nld).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # n heads l d
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=kept_nl[:, None, None])
        return torch.as_tensor(self.attn["proj"](attended.transpose(1, 2).flatten(2)))


def _unit_sphere(lonlat_nk: Tensor) -> Tensor:
    lon, lat = torch.deg2rad(lonlat_nk).unbind(dim=-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1)
