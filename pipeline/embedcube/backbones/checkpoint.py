"""State dicts of models that somebody else has trained: read without running any code, and held against the model."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor


def state_dict_of(checkpoint: bytes) -> dict[str, Tensor]:
    """The tensors of a file (safetensors, or torch's own format), none of whose code is run.

    Raises:
        ValueError: no such file.
    """
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


def taken(
    model: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], computed: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """`wanted` with the tensors found; only those whose names end in `computed` may be missing.

    Raises:
        ValueError: naming the first tensor that is missing or of another shape.
    """
    state = {}
    for name, own in wanted.items():
        tensor = found.get(name)
        if tensor is None and name.endswith(computed) and computed:
            tensor = own
        if tensor is None or tensor.shape != own.shape:
            has = "nothing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise ValueError(f"not a checkpoint of {model}: {name} is {has}, not of shape {tuple(own.shape)}")
        state[name] = tensor.to(own.dtype)
    return state


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A state dict as `Weights` hold it."""
    return {name: tensor.detach().contiguous().numpy() for name, tensor in sorted(state.items())}


def refuse_other_normalisation(backbone: str, mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise a ValueError unless there is a mean and a positive standard deviation for each band, or none of either."""
    if (len(mean), len(std)) not in ((0, 0), (channels, channels)):
        raise ValueError(
            f"{backbone}: mean and std need a number for each of {channels} bands, they have {len(mean)} and {len(std)}"
        )
    if any(not number > 0 for number in std) or not all(np.isfinite([*mean, *std])):
        raise ValueError(f"{backbone}: mean {list(mean)} and std {list(std)} are not numbers, or std is not positive")
