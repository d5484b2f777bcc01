"""How many chips one forward pass takes, where the campaign leaves it to `plan`: measured on the device itself."""

from dataclasses import replace

import torch

from embedcube.kernel.layer import LayerContext
from embedcube.prepare.price import Activations, batch_bytes, seconds_per_batch

CLOSE = 1.05
"""a smaller batch is taken when it costs at most so many times what the best costs: it takes less memory"""


def best_batch(context: LayerContext, activations: Activations, memory_bytes: float) -> int:
    """The power of two, at least 2, with which a full shard's chips pass soonest; the smaller of two that are close.

    Larger ones are not tried once two in a row gained nothing, nor those that fill `memory_bytes` or the device, nor
    those that a shard cannot fill by half: its last batch is padded.
    """
    chips = context.layout.chips**2
    costs: dict[int, float] = {}
    batch = 2
    while batch < 2 * chips or batch == 2:
        tried = replace(context, batch=batch)
        if batch > 2 and batch_bytes(tried, activations) > memory_bytes:
            break
        try:
            seconds = seconds_per_batch(tried, passes=2)
        except torch.cuda.OutOfMemoryError:
            break
        costs[batch] = seconds * -(-chips // batch)
        tried_s = list(costs.values())
        if len(tried_s) > 2 and min(tried_s[:-2]) <= CLOSE * min(tried_s[-2:]):
            break
        batch *= 2
    best = min(costs.values(), default=0.0)
    return next((batch for batch, cost in costs.items() if cost <= CLOSE * best), 2)
