"""`batch: auto`: the number of chips in one forward pass, chosen by measuring on the device."""

from dataclasses import replace

import torch

from embedcube.kernel.layer import LayerContext
from embedcube.prepare.price import Activations, batch_bytes, seconds_per_batch

CLOSE = 1.05
"""the smallest batch whose time per shard is at most this many times the best is taken: it needs less memory"""


def best_batch(context: LayerContext, activations: Activations, memory_bytes: float) -> int:
    """The power of two, at least 2, with which a full shard takes the least time; the smallest of those that are close.

    The search ends when two batches in a row gain nothing, when a batch would exceed `memory_bytes` or the device's
    memory, or when a shard has too few chips to fill half a batch (its last batch is padded).
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
