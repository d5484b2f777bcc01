"""Published state dicts: read without running any code from the file, and compared with the model."""

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
    """The tensors of a file's bytes (safetensors, or torch's own format). No code from the file is run.

    Raises:
        ValueError: the bytes are in neither format, or hold no state dict.
    """
    try:
        content: Any = safetensors.torch.load(checkpoint)
    except safetensors.SafetensorError:
        try:
            content = torch.load(BytesIO(checkpoint), map_location="cpu", weights_only=True)
        except Exception as error:  # an unpickler may raise anything on other bytes
            reason = str(error).partition("\n")[0]
            raise ValueError(f"neither safetensors nor a checkpoint of torch: {reason}") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}, not a state dict")
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def taken(
    model: str, published: Mapping[str, Tensor], own: Mapping[str, Tensor], computed: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The model's `own` state dict with the published tensors; only names that end in `computed` may be missing.

    Published tensors that the model does not have are left out.

    Raises:
        ValueError: naming the first tensor that is missing or of another shape.
    """
    state = {}
    for name, default in own.items():
        tensor = published.get(name)
        if tensor is None and name.endswith(computed) and computed:
            tensor = default
        if tensor is None or tensor.shape != default.shape:
            has = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise ValueError(f"not a checkpoint of {model}: {name} is {has}, not of shape {tuple(default.shape)}")
        state[name] = tensor.to(default.dtype)
    return state


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A state dict as arrays, sorted by name, for `Weights.tensors`."""
    return {name: tensor.detach().contiguous().numpy() for name, tensor in sorted(state.items())}


def refuse_other_normalisation(backbone: str, mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise a ValueError unless each band has a mean and a positive standard deviation, or both lists are empty."""
    if (len(mean), len(std)) not in ((0, 0), (channels, channels)):
        raise ValueError(
            f"{backbone}: mean and std need a number for each of {channels} bands, they have {len(mean)} and {len(std)}"
        )
    if any(not number > 0 for number in std) or not all(np.isfinite([*mean, *std])):
        raise ValueError(f"{backbone}: mean {list(mean)} and std {list(std)} are not numbers, or std is not positive")
