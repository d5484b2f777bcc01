"""The backbone `torch`: any module of torch, as a program of `torch.export`, or from a factory with a state dict.

Options describe the module's input. Its output is found by a trial on a few chips, when its weights are read for the
first time: the trial also checks that the module treats each chip alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from embedcube.backbones.base import FitSample, Inputs, ModelCard, Weights
from embedcube.backbones.checkpoint import as_arrays, refuse_other_normalisation, state_dict_of, taken
from embedcube.backbones.normalisation import MODALITIES, spelled
from embedcube.backbones.tokens import Pooling
from embedcube.backbones.torch_module.exported import Program
from embedcube.backbones.torch_module.outputs import Reading, Vectors
from embedcube.backbones.torch_module.trial import Found, tried
from embedcube.campaign import plugins as registry
from embedcube.campaign.options import PluginOptions, check_options
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout

LAYOUTS = {"bcyx": (0, 2, 3, 4), "btcyx": (0, 1, 2, 3, 4), "bctyx": (0, 2, 1, 3, 4)}
"""axes that a module's input may have (batch, time, channel, y, x), as indices into btcyx"""

PROGRAM, FOUND, STATE = "program", "found", "state."
"""names of tensors in the weights: the bytes of an exported program; the result of the trial; prefix of a state dict"""


class Options(PluginOptions):
    """Options of the backbone `torch`."""

    factory: str = ""
    """entry point of the group embedcube.models that makes the module; without it, `weights` is an exported program"""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """keyword arguments of the factory"""
    normalisation: str | tuple[str, ...] = ()
    """none, or the table that gives mean and std (S2L2A, S1GRD ...); one for each archive, or one for all"""
    mean: tuple[float, ...] = ()
    """mean of each band of the layer, in their order"""
    std: tuple[float, ...] = ()
    """standard deviation of each band of the layer, in their order"""
    takes: Literal["bcyx", "btcyx", "bctyx"] | None = None
    """axes of the module's input (batch, time, channel, y, x); bcyx is the default for one frame"""
    output: int | str | None = None
    """index or key of the output to use, where the module gives several"""
    prefix_tokens: int | None = Field(None, ge=0)
    """number of tokens before those of the grid; by default, what is left over of the largest square"""
    pooling: Pooling = "none"
    """none: one vector per token; mean, max (over the tokens outside of the halo) or cls: one vector per chip"""
    card: str = "https://pytorch.org"
    """URI of a page that describes the model; the cube names it"""

    @field_validator("card")
    @classmethod
    def _is_uri(cls, card: str) -> str:
        if "://" not in card:
            raise ValueError(f'"{card}" is not a URI')
        return card

    @model_validator(mode="after")
    def _arguments_of_a_factory(self) -> Self:
        if self.arguments and not self.factory:
            raise ValueError("arguments are for a `factory`; an exported program takes none")
        return self


class Torch:
    """The backbone `torch`."""

    options = Options
    """options of the YAML block"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """One card for exported programs, and one for each installed factory."""
        makers = [("", "an exported program (.pt2)")]
        makers += [(name, f"the module of the factory {name}") for name in registry.names("models")]
        return tuple(
            ModelCard(
                model=name,
                inputs=f"the input of {what}, as bcyx, btcyx or bctyx",
                cell="its token or the stride of its map, or the chip",
                dimensions="its own",
                normalisation=f"mean and std in the campaign, none, or that of {', '.join(MODALITIES)}",
            )
            for name, what in makers
        )

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Refuse wrong options, unknown factories, and a campaign that does not say how bands are normalised."""
        self._options = check_options(Options, options, "torch")
        self._takes = _takes(self._options, inputs)
        self._layout, self._inputs = layout, inputs
        self._mean, self._std = _normalisation(self._options, inputs)
        self._name = self._options.factory or "the program"
        self.software: tuple[str, ...] = ()
        if factory := self._options.factory:
            if factory not in (factories := registry.names("models")):
                raise ValueError(
                    f'torch: no factory "{factory}" among the entry points of the group embedcube.models; '
                    f"there are: {', '.join(factories) or 'none'}"
                )
            package = registry.distribution("models", factory).partition(" ")[0]
            self.software = (package,) if package else ()

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector, as found by the trial."""
        return self._found(weights).dimensions

    @property
    def model(self) -> str:
        """URI that the option `card` gives."""
        return self._options.card

    @property
    def fit_chips(self) -> int:
        """0: nothing is fitted, because the weights come with the module."""
        return 0

    def fit(self, sample: FitSample) -> Weights:
        """Raise a ValueError: the weights come with the module."""
        what = "a state dict of the factory's module" if self._options.factory else "a file of torch.export.save"
        raise ValueError(f"torch: name the layer's `weights`: {what}")

    def load(self, checkpoint: bytes) -> Weights:
        """Weights from the bytes of an exported program, or of a state dict with exactly the tensors of the module.

        Raises:
            ValueError: the bytes are neither, or the module does not take the layer's chips, or its output is not cells
                of them, or a chip's vectors depend on the rest of the batch.
        """
        if self._options.factory:
            if checkpoint.startswith(b"PK") and b"models/model.json" in checkpoint:
                raise ValueError("this is an exported program, which needs no `factory`: leave that option out")
            tensors = {STATE + name: array for name, array in self._state(state_dict_of(checkpoint)).items()}
        else:
            tensors = {PROGRAM: np.frombuffer(checkpoint, dtype=np.uint8)}
        vectors = self._vectors(tensors)
        batch = vectors.inner.fewest if isinstance(vectors.inner, Program) else 2
        found = tried(vectors, self._name, self._layout, self._inputs, batch)
        return Weights(mean=self._mean, std=self._std, tensors={FOUND: found.as_array(), **tensors})

    def module(self, weights: Weights) -> nn.Module:
        """The module, followed by the step that makes cells of the kept centre from its output.

        Raises:
            RequestError: the trial was made with other chips or cells.
        """
        self._found(weights)
        return self._vectors(weights.tensors)

    def _found(self, weights: Weights) -> Found:
        found, layout = Found.of_array(weights.tensors[FOUND]), self._layout
        tried_with = (found.chip_px, found.halo_px, found.cell_px, found.frames)
        asked = (layout.chip_px, layout.halo_px, layout.cell_px, self._inputs.frames)
        if tried_with != asked:
            raise RequestError(
                f"torch: chip_px, halo_px, cell_px and frames are {asked}, {self._name} was tried with {tried_with}: "
                "remove the layer's weights from the run folder and run `embedcube fit`, which tries it again"
            )
        return found

    def _state(self, published: dict[str, Tensor]) -> dict[str, Any]:
        """The `published` state dict, checked against the factory's module."""
        own = self._made().state_dict()
        if unknown := sorted(published.keys() - own.keys()):
            missing = sorted(own.keys() - published.keys())
            raise ValueError(
                f"not a state dict of {self._name}: it has {_few(unknown)}, which the module does not have"
                + (f", and lacks {_few(missing)}" if missing else "")
            )
        for name, tensor in own.items():
            if tensor.dtype == torch.bfloat16:
                raise ValueError(f"{self._name} has {name} in bfloat16: make it in float32; `precision` does the rest")
        return as_arrays(taken(self._name, published, own))

    def _vectors(self, tensors: Mapping[str, Any]) -> Vectors:
        if self._options.factory:
            inner = self._made()
            state = {name.removeprefix(STATE): torch.from_numpy(a) for name, a in tensors.items() if name != FOUND}
            inner.load_state_dict(state)
            inner.requires_grad_(False).eval()
        else:
            inner = Program(tensors[PROGRAM].tobytes())
            inner.requires_grad_(False)
            self._refuse_other_chips(inner)
        options = self._options
        reading = Reading(
            name=self._name, output=options.output, prefix_tokens=options.prefix_tokens, pooling=options.pooling
        )
        return Vectors(inner, LAYOUTS[self._takes], reading, self._layout)

    def _made(self) -> nn.Module:
        """The factory's module with its initial weights; the state of random generators is left as it was."""
        factory, arguments = registry.plugin("models", self._options.factory), self._options.arguments
        with torch.random.fork_rng(devices=[]):
            try:
                made = factory(**arguments)
            except Exception as error:  # third-party code may raise anything
                raise ValueError(f"torch: {self._name}({dict(arguments)}) fails: {error!r}") from None
        if not isinstance(made, nn.Module):
            raise ValueError(f"torch: {self._name} makes a {type(made).__name__}, not a torch.nn.Module")
        return made

    def _refuse_other_chips(self, program: Program) -> None:
        side, inputs = self._layout.chip_px, self._inputs
        sizes = (None, inputs.frames, inputs.channels, side, side)
        offered = tuple(sizes[axis] for axis in LAYOUTS[self._takes])
        if len(program.takes) != len(offered):
            raise ValueError(
                f"the program takes a tensor of {len(program.takes)} axes, the layer's chips have those of "
                f"{self._takes}; "
                f"set `takes` to one of {', '.join(LAYOUTS)}"
            )
        for axis, taken_size, size in list(zip(self._takes, program.takes, offered, strict=True))[1:]:
            if taken_size not in (None, size):
                what = {"t": "frames", "c": "bands", "y": "px", "x": "px"}[axis]
                raise ValueError(
                    f"the program takes chips of {taken_size} {what} ({axis} of {self._takes}), the layer's have "
                    f"{size}: change the layer, or export the module for {size}"
                )


def _takes(options: Options, inputs: Inputs) -> str:
    """Axes of the module's input: the option `takes`, or bcyx for one frame."""
    if inputs.frames > 1 and options.takes in (None, "bcyx"):
        raise ValueError(
            f"torch.takes: a window has {inputs.frames} frames, bcyx has one; say `takes: btcyx` or `takes: bctyx`"
        )
    return options.takes or "bcyx"


def _normalisation(options: Options, inputs: Inputs) -> tuple[Any, Any]:
    """Mean and standard deviation (float32) of each band of the layer."""
    if bool(options.normalisation) == bool(options.mean or options.std):
        raise ValueError(
            f"torch: say how the {inputs.channels} bands are normalised: either mean and std, a number for each; or "
            f"normalisation: none, or one of the tables {', '.join(MODALITIES)}"
        )
    refuse_other_normalisation("torch", options.mean, options.std, inputs.channels)
    mean, std = list(options.mean), list(options.std)
    named = options.normalisation
    if named == "none":
        mean, std = [0.0] * inputs.channels, [1.0] * inputs.channels
    elif named:
        tables = [named] * len(inputs.bands) if isinstance(named, str) else list(named)
        if len(tables) != len(inputs.bands) or any(table not in MODALITIES for table in tables):
            raise ValueError(
                f"torch: normalisation {named!r} is neither none nor, for each of {len(inputs.bands)} archives, one of "
                f"{', '.join(MODALITIES)}"
            )
        for table, bands in zip(tables, inputs.bands, strict=True):
            for band in bands:
                if spelled(band) not in MODALITIES[table].of:
                    raise ValueError(
                        f'torch: the table {table} has no band "{band}"; it has {", ".join(MODALITIES[table].bands)}: '
                        "give mean and std instead"
                    )
                of = MODALITIES[table].of[spelled(band)]
                mean.append(of[0])
                std.append(of[1])
    return np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
