"""Fit a head of two convolutions with torch: 3 x 3 cells to hidden numbers, and these to classes.

It learns from the shares of classes in each cell. Equal examples and an equal seed give equal numbers, whatever the
number of threads: the fit runs on one. What is fitted is a few arrays, which `heads.py` applies without torch.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.uses.decode.around import NOTHING, PLACES, Around

_EPOCHS = 30
_LEAST_STEPS = 1_000
"""of few examples there are more epochs"""
_BATCH = 128
_RATE = 2e-3
"""first learning rate; it falls to 0 along a cosine"""
_DECAY = 1e-2


def fit_convolution(
    around: Around, mean: NDArray[np.float64], std: NDArray[np.float64], weights: NDArray[np.float64],
    hidden: int, seed: int,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Arrays of a head of the kind `conv` that minimises a weighted cross entropy.

    `weights` (cell, class) say how much each class of each cell counts; every class counts somewhere.
    """
    import torch
    from torch.nn import functional

    standard = ((around.vectors - mean) / std).astype(np.float32)
    # the last row is what a convolution sees beyond the edge: zeros
    seen = torch.from_numpy(np.concatenate([standard, np.zeros((1, standard.shape[1]), np.float32)]))
    at = torch.from_numpy(np.where(around.at == NOTHING, len(standard), around.at))
    wanted = torch.from_numpy((weights * (len(weights) / weights.sum())).astype(np.float32))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        drawn = torch.Generator().manual_seed(seed)
        arrays = _first(standard.shape[1], hidden, weights.shape[1], drawn)
        optimiser = torch.optim.AdamW(list(arrays.values()), lr=_RATE, weight_decay=_DECAY)
        steps = -(-len(at) // _BATCH)
        epochs = max(_EPOCHS, -(-_LEAST_STEPS // steps))
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(at), generator=drawn).split(_BATCH):
                flat, kernel = seen[at[rows]].flatten(1), arrays["kernel"].flatten(1)
                inner = functional.relu(functional.linear(flat, kernel, arrays["hidden_intercepts"]))
                logits = functional.linear(inner, arrays["coefficients"], arrays["intercepts"])
                loss = -(wanted[rows] * functional.log_softmax(logits, dim=1)).sum() / len(rows)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                falling.step()
    finally:
        torch.set_num_threads(threads)
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in arrays.items()}


def _first(features: int, hidden: int, outputs: int, drawn: Any) -> dict[str, Any]:
    """Numbers to begin with: normal, so that what goes through has the size of what comes in (He et al. 2015)."""
    import torch

    kernel = torch.randn(hidden, PLACES, features, generator=drawn) * (2 / (PLACES * features)) ** 0.5
    coefficients = torch.randn(outputs, hidden, generator=drawn) * hidden**-0.5
    arrays = {"kernel": kernel, "hidden_intercepts": torch.zeros(hidden), "coefficients": coefficients,
              "intercepts": torch.zeros(outputs)}  # fmt: skip
    return {name: tensor.requires_grad_() for name, tensor in arrays.items()}
