"""TerraTorch's backbones: TerraMind of one or several modalities, Prithvi of 1 to 4 frames, image models by name.

A cell is a token (or one number of each feature map); the ring of tokens that the halo covers sees its neighbours
and is dropped. TerraTorch builds and computes, always with `pretrained=False`: weights come from `weights` of the
layer, and no hub is ever asked.
"""

from dataclasses import fields
from io import BytesIO
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.backbones.terratorch_families import CHOICES, Family, Image, Options, Prithvi, TerraMind
from embedcube.backbones.terratorch_models import KNOWN, model_cards
from embedcube.blocks import nearest
from embedcube.grid import ShardLayout


class TerraTorch:
    """The backbone `terratorch`."""

    software: tuple[str, ...] = ("terratorch", "timm")
    """which hold the code of the models"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """TerraMind's and Prithvi's models, and a word on the others."""
        return model_cards()

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Refuses unknown options, bands that the model lacks or wants, and cells that are not its tokens."""
        self._options = _checked(options)
        self._layout = layout
        self._inputs = inputs
        name = self._options.model
        known = KNOWN.get(name)
        if known is None and name.startswith(("terramind", "prithvi")):
            raise ValueError(f'terratorch: no model "{name}" that embedcube can feed{nearest(name, KNOWN)}')
        if known is None:
            self._model: Family = Image(self._options, layout.chip_px, inputs)
        elif known.family == "terramind":
            self._model = TerraMind(known, self._options, inputs)
        else:
            self._model = Prithvi(known, self._options, inputs)
        self._layers = [self._depth_of(layer) for layer in self._options.layers]
        self._refuse_other_cells()
        if (len(self._options.mean), len(self._options.std)) not in (
            (0, 0),
            (inputs.channels, inputs.channels),
        ):
            raise ValueError(
                f"terratorch: mean and std need a number for each of {inputs.channels} bands, "
                f"they have {len(self._options.mean)} and {len(self._options.std)}"
            )
        if any(not std > 0 for std in self._options.std):
            raise ValueError(f"terratorch: std {list(self._options.std)} is not positive")

    def _depth_of(self, layer: int) -> int:
        depth = len(self._model.widths)
        if not -depth <= layer < depth:
            raise ValueError(f"terratorch: {self._options.model} has layers 0 to {depth - 1}, not {layer}")
        return layer % depth

    def _refuse_other_cells(self) -> None:
        layout, name = self._layout, self._options.model
        patches = {self._model.patch_px[layer] for layer in self._layers}
        if len(patches) > 1:
            raise ValueError(f"terratorch: layers {self._layers} of {name} have cells of {sorted(patches)} px")
        patch = patches.pop()
        if layout.chip_px % patch or layout.halo_px % patch:
            raise ValueError(
                f"terratorch: {name} sees patches of {patch} px; chip_px {layout.chip_px} and halo_px {layout.halo_px} "
                "are not whole ones"
            )
        pooling = self._options.pooling
        wanted = patch if pooling == "none" else layout.keep_px
        if layout.cell_px != wanted:
            what = "a token" if pooling == "none" else f"the kept centre of a chip (pooling {pooling})"
            raise ValueError(
                f"terratorch: a cell of {name} is {what}: cell_px must be {wanted}, it is {layout.cell_px}"
            )

    @property
    def dimensions(self) -> int:
        """Of all layers, side by side."""
        return sum(self._model.widths[layer] for layer in self._layers)

    @property
    def model(self) -> str:
        """The model's card where its weights are published, else TerraTorch's code."""
        known = KNOWN.get(self._options.model)
        if known is None or known.hub is None:
            return "https://github.com/terrastackai/terratorch"
        return f"https://huggingface.co/{known.hub[0]}"

    def activation_bytes(self, batch: int) -> int:
        """The outputs of all blocks, which TerraTorch keeps, what the widest block holds, and the batch's vectors."""
        return batch * (self._model.chip_bytes(self._layout.chip_px) + 4 * self._layout.chip_cells**2 * self.dimensions)

    @property
    def fit_chips(self) -> int:
        """None: the weights are published, or random."""
        return 0

    def fit(self, sample: FitSample) -> Weights:
        """Weights of a random start, where the campaign asks for them."""
        seed = self._options.random_seed
        if seed is None:
            raise ValueError(
                f"{self._options.model} has weights of its own: name their file with the layer's key `weights` "
                "(`embedcube weights` fetches what is published), or say random_seed to try a campaign without"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._weights(self._model.build().state_dict())

    def load(self, checkpoint: bytes) -> Weights:
        """A state dict, as published or as saved from the model that TerraTorch builds (safetensors, or torch's own).

        It must have all that the model needs, in its shapes; decoders and the like are left out.
        """
        if self._options.random_seed is not None:
            raise ValueError("random_seed asks for random weights, and `weights` names a file: leave one out")
        return self._weights(self._model.adapted(_state_dict(checkpoint), self._model.build().state_dict()))

    def _weights(self, state: dict[str, Tensor]) -> Weights:
        mean, std = self._options.mean or self._model.mean, self._options.std or self._model.std
        return Weights(
            mean=np.array(mean, dtype=np.float32),
            std=np.array(std, dtype=np.float32),
            tensors={name: tensor.detach().contiguous().numpy() for name, tensor in sorted(state.items())},
        )

    def module(self, weights: Weights) -> nn.Module:
        """The model with what cuts its tokens to the kept centre."""
        built = self._model.build()
        built.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.tensors.items()})
        module = _Tokens(built, self._model, self._layers, self._options.pooling, self._layout)
        return module.requires_grad_(False).eval()


class _Tokens(nn.Module):
    """Chips -> vectors of the kept centres."""

    def __init__(
        self,
        built: nn.Module,
        model: Family,
        layers: list[int],
        pooling: str,
        layout: ShardLayout,
    ) -> None:
        super().__init__()
        self.model = built
        self._call, self._layers, self._pooling, self._layout = model.call, layers, pooling, layout

    def forward(self, chips: Chips) -> Tensor:
        outputs = self._call(self.model, chips)
        return torch.cat([self._cells(*outputs[layer]) for layer in self._layers], dim=-1).float()

    def _cells(self, tokens_byxd: Tensor, cls_bd: Tensor | None) -> Tensor:
        if self._pooling == "cls":
            assert cls_bd is not None
            return cls_bd[:, None, None]
        ring = self._layout.halo_px * tokens_byxd.shape[1] // self._layout.chip_px
        kept = tokens_byxd[:, ring : tokens_byxd.shape[1] - ring, ring : tokens_byxd.shape[2] - ring]
        if self._pooling == "mean":
            return kept.mean(dim=(1, 2), keepdim=True)
        return kept.amax(dim=(1, 2), keepdim=True) if self._pooling == "max" else kept


def _checked(options: dict[str, Any]) -> Options:
    """The options of the YAML block, refused where they are none."""
    known = sorted(field.name for field in fields(Options))
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f'terratorch has no option "{unknown[0]}"; it has {", ".join(known)}')
    if not isinstance(options.get("model"), str):
        raise ValueError("terratorch needs a model: `embedcube models` lists them")
    for name in ("modalities", "without", "layers", "mean", "std"):
        if not isinstance(options.get(name, []), list | tuple):
            raise ValueError(f"terratorch: {name} is a list, not {options[name]!r}")
    for name, choices in CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            raise ValueError(f'terratorch: {name} is one of {", ".join(choices)}, not "{options[name]}"')
    checked = Options(**options)
    if not checked.layers or len(set(checked.layers)) < len(checked.layers):
        raise ValueError(f"terratorch: layers {list(checked.layers)} are none, or one is named twice")
    return checked


def _state_dict(checkpoint: bytes) -> dict[str, Tensor]:
    """The tensors of a file, none of whose code is run."""
    try:
        found: Any = safetensors.torch.load(checkpoint)
    except safetensors.SafetensorError:
        try:
            found = torch.load(BytesIO(checkpoint), map_location="cpu", weights_only=True)
        except Exception as error:  # an unpickler may raise anything on bytes that are not for it
            reason = str(error).partition("\n")[0]
            raise ValueError(f"neither safetensors nor a checkpoint of torch: {reason}") from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}, not a state dict")
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
