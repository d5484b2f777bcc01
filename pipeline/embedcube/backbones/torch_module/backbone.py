"""Anybody's module of torch: a program of `torch.export`, or what a factory makes, with a state dict.

What the module takes is said in a few options; what it gives is found by showing it a few chips when its weights are
taken in, together with how much memory that takes and whether it treats each chip alone.
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
"""what a module may take: batch, time, channel, y, x"""

PROGRAM, FOUND, STATE = "program", "found", "state."
"""tensors of the weights: the bytes of an exported program; what was found of the module; its state dict"""


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

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """What it takes, and the factories that are installed."""
        makers = [("", "an exported program (.pt2)")]
        makers += [(name, f"the module of the factory {name}") for name in registry.names("models")]
        return tuple(
            ModelCard(
                model=name,
                inputs=f"what {what} takes, as bcyx, btcyx or bctyx",
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
            if factory not in (there := registry.names("models")):
                raise ValueError(
                    f'torch: no factory "{factory}" among the entry points of the group embedcube.models; '
                    f"there are: {', '.join(there) or 'none'}"
                )
            package = registry.distribution("models", factory).partition(" ")[0]
            self.software = (package,) if package else ()

    def dimensions(self, weights: Weights) -> int:
        """As found when the weights were taken in."""
        return self._found(weights).dimensions

    @property
    def model(self) -> str:
        """What the campaign says."""
        return self._options.card

    @property
    def fit_chips(self) -> int:
        """None: the weights are somebody's."""
        return 0

    def fit(self, sample: FitSample) -> Weights:
        """There is nothing to fit."""
        what = "a state dict of what the factory makes" if self._options.factory else "a file of torch.export.save"
        raise ValueError(f"torch: name the layer's `weights`: {what}")

    def load(self, checkpoint: bytes) -> Weights:
        """The bytes of an exported program; or a state dict of the factory's module, all of it and nothing else.

        Raises:
            ValueError: neither, or the module does not take the layer's chips, or what it gives are no cells of them,
                or it does not treat each chip alone.
        """
        if self._options.factory:
            if checkpoint.startswith(b"PK") and b"models/model.json" in checkpoint:
                raise ValueError("this is an exported program, which needs no `factory`: leave it out")
            tensors = {STATE + name: array for name, array in self._state(state_dict_of(checkpoint)).items()}
        else:
            tensors = {PROGRAM: np.frombuffer(checkpoint, dtype=np.uint8)}
        vectors = self._vectors(tensors)
        batch = vectors.inner.fewest if isinstance(vectors.inner, Program) else 2
        found = tried(vectors, self._name, self._layout, self._inputs, batch)
        return Weights(mean=self._mean, std=self._std, tensors={FOUND: found.as_array(), **tensors})

    def module(self, weights: Weights) -> nn.Module:
        """The module with what makes cells of the kept centre of its output.

        Raises:
            RequestError: the weights were taken in with other chips or cells.
        """
        self._found(weights)
        return self._vectors(weights.tensors)

    def _found(self, weights: Weights) -> Found:
        found, layout = Found.of_array(weights.tensors[FOUND]), self._layout
        tried_with = (found.chip_px, found.halo_px, found.cell_px, found.frames)
        given = (layout.chip_px, layout.halo_px, layout.cell_px, self._inputs.frames)
        if tried_with != given:
            raise RequestError(
                f"torch: chip_px, halo_px, cell_px and frames are {given}, {self._name} was tried with {tried_with}: "
                "remove its weights from the run folder, and `embedcube fit` tries it anew"
            )
        return found

    def _state(self, found: dict[str, Tensor]) -> dict[str, Any]:
        """The state dict of the factory's module, as found."""
        own = self._made().state_dict()
        if unknown := sorted(found.keys() - own.keys()):
            missing = sorted(own.keys() - found.keys())
            raise ValueError(
                f"not a state dict of {self._name}: it has {_few(unknown)}, which the module has not"
                + (f", and lacks {_few(missing)}" if missing else "")
            )
        for name, tensor in own.items():
            if tensor.dtype == torch.bfloat16:
                raise ValueError(f"{self._name} has {name} in bfloat16: make it in float32; `precision` does the rest")
        return as_arrays(taken(self._name, found, own))

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
        """The factory's module, at whatever start; the process's random numbers are left as they were."""
        factory, arguments = registry.plugin("models", self._options.factory), self._options.arguments
        with torch.random.fork_rng(devices=[]):
            try:
                made = factory(**arguments)
            except Exception as error:  # of somebody else's code
                raise ValueError(f"torch: {self._name}({dict(arguments)}) fails: {error!r}") from None
        if not isinstance(made, nn.Module):
            raise ValueError(f"torch: {self._name} makes a {type(made).__name__}, not a torch.nn.Module")
        return made

    def _refuse_other_chips(self, program: Program) -> None:
        side, inputs = self._layout.chip_px, self._inputs
        sizes = (None, inputs.frames, inputs.channels, side, side)
        given = tuple(sizes[axis] for axis in LAYOUTS[self._takes])
        if len(program.takes) != len(given):
            raise ValueError(
                f"the program takes a tensor of {len(program.takes)} axes, it would be given {self._takes}; "
                f"say `takes`, one of {', '.join(LAYOUTS)}"
            )
        for axis, wanted, size in list(zip(self._takes, program.takes, given, strict=True))[1:]:
            if wanted not in (None, size):
                what = {"t": "frames", "c": "bands", "y": "px", "x": "px"}[axis]
                raise ValueError(
                    f"the program takes chips of {wanted} {what} ({axis} of {self._takes}), the layer's have "
                    f"{size}: change the layer, or export the module for {size}"
                )


def _takes(options: Options, inputs: Inputs) -> str:
    """The axes of the module's input."""
    if inputs.frames > 1 and options.takes in (None, "bcyx"):
        raise ValueError(
            f"torch.takes: a window has {inputs.frames} frames, bcyx has one; say `takes: btcyx` or `takes: bctyx`"
        )
    return options.takes or "bcyx"


def _normalisation(options: Options, inputs: Inputs) -> tuple[Any, Any]:
    """Mean and standard deviation of each band of the layer."""
    if bool(options.normalisation) == bool(options.mean or options.std):
        raise ValueError(
            f"torch: say how the {inputs.channels} bands are normalised: either mean and std, a number for each; or "
            f"normalisation: none, or whose table is to be taken: {', '.join(MODALITIES)}"
        )
    refuse_other_normalisation("torch", options.mean, options.std, inputs.channels)
    mean, std = list(options.mean), list(options.std)
    said = options.normalisation
    if said == "none":
        mean, std = [0.0] * inputs.channels, [1.0] * inputs.channels
    elif said:
        tables = [said] * len(inputs.bands) if isinstance(said, str) else list(said)
        if len(tables) != len(inputs.bands) or any(table not in MODALITIES for table in tables):
            raise ValueError(
                f"torch: normalisation {said!r} is neither none nor, for each of {len(inputs.bands)} archives, one of "
                f"{', '.join(MODALITIES)}"
            )
        for table, bands in zip(tables, inputs.bands, strict=True):
            for band in bands:
                if spelled(band) not in MODALITIES[table].of:
                    raise ValueError(
                        f'torch: {table} knows no band "{band}"; it knows {", ".join(MODALITIES[table].bands)}: say '
                        "mean and std instead"
                    )
                of = MODALITIES[table].of[spelled(band)]
                mean.append(of[0])
                std.append(of[1])
    return np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
