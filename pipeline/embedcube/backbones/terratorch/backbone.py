"""TerraTorch's backbones: TerraMind of one or several modalities, Prithvi of 1 to 4 frames, image models by name.

A cell is a token (or one number of each feature map); the ring of tokens that the halo covers sees its neighbours
and is dropped. TerraTorch builds and computes, always with `pretrained=False`: weights come from `weights` of the
layer, and no hub is ever asked.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.backbones.checkpoint import as_arrays, refuse_other_normalisation, state_dict_of
from embedcube.backbones.terratorch.families import Family, Image, Options, Prithvi, TerraMind
from embedcube.backbones.terratorch.models import KNOWN, model_cards
from embedcube.backbones.tokens import kept_cells, refuse_other_cells
from embedcube.campaign.fields import nearest
from embedcube.campaign.options import check_options
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
        """Refuse wrong options, bands that are not those of the model, and cells that are not its tokens."""
        self._options = check_options(Options, options, "terratorch")
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
        refuse_other_normalisation("terratorch", self._options.mean, self._options.std, inputs.channels)

    def _depth_of(self, layer: int) -> int:
        depth = len(self._model.widths)
        if not -depth <= layer < depth:
            raise ValueError(f"terratorch: {self._options.model} has layers 0 to {depth - 1}, not {layer}")
        return layer % depth

    def _refuse_other_cells(self) -> None:
        name = self._options.model
        patches = {self._model.patch_px[layer] for layer in self._layers}
        if len(patches) > 1:
            raise ValueError(f"terratorch: layers {self._layers} of {name} have cells of {sorted(patches)} px")
        refuse_other_cells(name, patches.pop(), self._options.pooling, self._layout)

    def dimensions(self, weights: Weights) -> int:
        """Of all layers, side by side."""
        return self._dimensions

    @property
    def _dimensions(self) -> int:
        return sum(self._model.widths[layer] for layer in self._layers)

    @property
    def model(self) -> str:
        """The model's card where its weights are published, else TerraTorch's code."""
        known = KNOWN.get(self._options.model)
        if known is None or known.hub is None:
            return "https://github.com/terrastackai/terratorch"
        return f"https://huggingface.co/{known.hub[0]}"

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
        return self._weights(self._model.adapted(state_dict_of(checkpoint), self._model.build().state_dict()))

    def _weights(self, state: dict[str, Tensor]) -> Weights:
        mean, std = self._options.mean or self._model.mean, self._options.std or self._model.std
        return Weights(
            mean=np.array(mean, dtype=np.float32),
            std=np.array(std, dtype=np.float32),
            tensors=as_arrays(state),
        )

    def module(self, weights: Weights) -> nn.Module:
        """The model with what cuts its tokens to the kept centre."""
        built = self._model.build()
        built.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.tensors.items()})
        built = built.to(memory_format=self._model.memory_format)  # type: ignore[call-overload]
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
        cells = [kept_cells(*outputs[layer], self._pooling, self._layout) for layer in self._layers]
        return torch.cat(cells, dim=-1).float()
