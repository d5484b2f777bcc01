"""The backbone `terratorch`: TerraMind with one or more modalities, Prithvi with 1 to 4 frames, image models.

A cell is a token (or one pixel of the feature maps); the ring of tokens in the halo is dropped. TerraTorch builds and
runs the model, always with `pretrained=False`: weights come from the layer's `weights`, never from a hub.
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

    options = Options
    """options of the YAML block"""

    software: tuple[str, ...] = ("terratorch", "timm")
    """packages with the code of the models"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """One card for each model of TerraMind and Prithvi, and one for all others."""
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
            raise ValueError(f"terratorch.layers: {self._options.model} has layers 0 to {depth - 1}, not {layer}")
        return layer % depth

    def _refuse_other_cells(self) -> None:
        name = self._options.model
        patches = {self._model.patch_px[layer] for layer in self._layers}
        if len(patches) > 1:
            raise ValueError(f"terratorch: layers {self._layers} of {name} have cells of {sorted(patches)} px")
        refuse_other_cells(name, patches.pop(), self._options.pooling, self._layout)

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: the sum of the widths of all selected layers."""
        return self._dimensions

    @property
    def _dimensions(self) -> int:
        return sum(self._model.widths[layer] for layer in self._layers)

    @property
    def model(self) -> str:
        """URI of the model's card where its weights are published, otherwise of TerraTorch's code."""
        known = KNOWN.get(self._options.model)
        if known is None or known.hub is None:
            return "https://github.com/terrastackai/terratorch"
        return f"https://huggingface.co/{known.hub[0]}"

    @property
    def fit_chips(self) -> int:
        """0: nothing is fitted, because the weights are published or random."""
        return 0

    def fit(self, sample: FitSample) -> Weights:
        """Random weights, where the campaign asks for them with `random_seed`."""
        seed = self._options.random_seed
        if seed is None:
            raise ValueError(
                f"{self._options.model} has published weights: name their file with the layer's key `weights` "
                "(`embedcube weights` fetches it), or set random_seed to test a campaign without them"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._weights(self._model.build().state_dict())

    def load(self, checkpoint: bytes) -> Weights:
        """Weights from a state dict, as published or as saved from TerraTorch's model (safetensors or torch's format).

        It must have every tensor of the model, in its shape; other tensors, such as those of a decoder, are left out.

        Raises:
            ValueError: the bytes are not such a state dict, or `random_seed` is set too.
        """
        if self._options.random_seed is not None:
            raise ValueError("random_seed asks for random weights, and `weights` names a file: leave one of them out")
        return self._weights(self._model.adapted(state_dict_of(checkpoint), self._model.build().state_dict()))

    def _weights(self, state: dict[str, Tensor]) -> Weights:
        mean, std = self._options.mean or self._model.mean, self._options.std or self._model.std
        return Weights(
            mean=np.array(mean, dtype=np.float32),
            std=np.array(std, dtype=np.float32),
            tensors=as_arrays(state),
        )

    def module(self, weights: Weights) -> nn.Module:
        """The model, followed by the step that cuts its tokens to the kept centre."""
        built = self._model.build()
        built.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.tensors.items()})
        built = built.to(memory_format=self._model.memory_format)  # type: ignore[call-overload]
        module = _Tokens(built, self._model, self._layers, self._options.pooling, self._layout)
        return module.requires_grad_(False).eval()


class _Tokens(nn.Module):
    """Maps chips to the vectors of their kept centres."""

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
