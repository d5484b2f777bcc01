"""Vectors -> stored numbers, on the device: int8 is a quarter of the bytes to copy back.

`decode` in cube/encoding.py is the inverse; it needs nothing but NumPy.
"""

from dataclasses import dataclass

import numpy as np
import torch

from embedcube.cube.encoding import LARGEST_NUMBER, Encoding

_LARGEST_SCALE = float(np.nextafter(np.float32(np.finfo(np.float32).max / 127), np.float32(0)))
"""the largest scale whose product with 127 is finite"""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """Vectors as they are stored."""

    stored: torch.Tensor
    """(..., D) in the encoding's type"""
    scale: torch.Tensor | None
    """(...) float32; None where the encoding has no scale"""
    finite: torch.Tensor
    """(...) bool: every number of the vector is finite"""
    held: torch.Tensor
    """(...) bool: and the encoding can hold each of them; what is stored for other vectors has no meaning"""


def quantise(vectors: torch.Tensor, encoding: Encoding, offset: torch.Tensor | None = None) -> Quantised:
    """Float32 vectors (..., D) as stored numbers; the same on every device that divides as IEEE 754 says.

    `int8` is per-vector absmax: s = max|x| / 127, q = round(x / s), half to even. The norm survives; no number is
    off by more than `encoding.int8_bound(s)`. A vector of zeros has s = 0. In a centred layer x is the vector without
    the layer's `offset` (D); other encodings do not use it. float16 holds numbers up to 65,504, and none
    of those above that it would round to 65,504.
    """
    if offset is not None and encoding == "int8":
        vectors = vectors - offset
    # the largest number of a vector that holds NaN is NaN
    largest = vectors.abs().amax(dim=-1)
    finite = largest.isfinite()
    if encoding == "int8":
        # by a tensor, as CUDA multiplies by the reciprocal of a number
        steps = torch.full((), 127.0, device=vectors.device)
        scale = (largest / steps).clamp_(max=_LARGEST_SCALE)
        # scales so small that they lose digits (subnormal) would make q exceed 127
        divisor = torch.where(scale > 0, scale, 1.0)[..., None]
        stored = (vectors / divisor).round_().clamp_(-127, 127).nan_to_num_(nan=0.0).to(torch.int8)
        return Quantised(stored=stored, scale=scale, finite=finite, held=finite)
    if encoding == "float16":
        held = largest <= LARGEST_NUMBER[encoding]  # false for NaN
        return Quantised(stored=vectors.to(torch.float16), scale=None, finite=finite, held=held)
    return Quantised(stored=vectors, scale=None, finite=finite, held=finite)
