"""TerraTorch's registry of backbones, imported when a model is built and not before: that takes ten seconds."""

import importlib
import os
import sys
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from embedcube.backbones.terratorch.models import KNOWN
from embedcube.errors import RequestError


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A model of TerraTorch's registry at a random start; the process's random numbers are left as they were.

    Raises:
        RequestError: there is no TerraTorch, or no such model.
    """
    registry = _registry()
    if name not in registry:
        raise RequestError(f'TerraTorch has no backbone "{name}"; `embedcube models` lists {", ".join(KNOWN)}')
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = registry.build(name, pretrained=False, **arguments)
    return model


@lru_cache(maxsize=1)
def _registry() -> Any:
    # no model is ever fetched by a rank; `embedcube weights` does it, elsewhere
    os.environ["HF_HUB_OFFLINE"] = "1"
    precision = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            try:
                importlib.import_module("torchvision")
            except RuntimeError as error:
                if "torchvision::nms" not in str(error):
                    raise
                _declare_torchvision_operators()
            return importlib.import_module("terratorch").BACKBONE_REGISTRY
        except ImportError as error:
            raise RequestError(
                f"the backbone terratorch needs TerraTorch: pip install 'embedcube[terratorch]' ({error})"
            ) from None
        finally:
            # one of its modules (Clay) sets "medium" as it is imported: products in bfloat16, for the whole process
            torch.set_float32_matmul_precision(precision)


_declared: list[torch.library.Library] = []
"""kept: operators are gone with their library"""


def _declare_torchvision_operators() -> None:
    """A torchvision that was built for another torch (CUDA, with torch for CPUs) lacks the operators that it describes.

    They find boxes; no backbone calls them. Declared, it can be imported.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
