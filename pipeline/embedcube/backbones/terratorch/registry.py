"""TerraTorch's registry of backbones. It is imported only when a model is built, as that takes ten seconds."""

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
    """A model of TerraTorch's registry with random weights; the state of random generators is left as it was.

    Raises:
        RequestError: TerraTorch is not installed, or has no such model.
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
    # a rank never fetches a model: `embedcube weights` does it before
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
            # importing one of its modules (Clay) sets "medium": products in bfloat16, for the whole process
            torch.set_float32_matmul_precision(precision)


_declared: list[torch.library.Library] = []
"""libraries of declared operators; kept, as operators disappear with their library"""


def _declare_torchvision_operators() -> None:
    """Declare operators that torchvision lacks when it was built for another torch (CUDA, with a torch for CPUs).

    They find boxes; no backbone calls them. With the declarations, torchvision can be imported.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
