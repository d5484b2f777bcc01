"""The weights file of a layer: its format (safetensors), its reader and its checks."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from embedcube.backbones.base import Weights
from embedcube.campaign.backbone_parts import without_files
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.schema import Campaign, period_of_fit
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.errors import RequestError
from embedcube.printable import printable_path


def read_weights(campaign: Campaign, run: RunDir, layer: str) -> tuple[Weights, str]:
    """The frozen weights of a layer, and the SHA-256 (hex) of their file.

    Raises:
        RequestError: there is no file, it was changed since `fit` wrote it, or it was made for another backbone, other
            bands or another period of fitting.
    """
    path, seal = run.weights(layer), run.weights_seal(layer)
    if not path.exists():
        raise RequestError(f"{path}: layer {layer} has no weights yet; run `embedcube fit` first")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    # a file that somebody has put there has no digest beside it, and is read as it is
    if seal.exists() and (written := read_sealed(seal, "fit").get("sha256")) != digest:
        raise RequestError(
            f"{path}: damaged or replaced, its SHA-256 is {digest[:12]} and {seal.name} says {str(written)[:12]}; "
            "restore it, or remove both files and run `embedcube fit` again"
        )
    return parse_weights(data, campaign, layer, f"{path}"), digest


def write_weights(run: RunDir, layer: str, data: bytes) -> None:
    """Write the frozen weights of a layer and their digest; killed in between, readers refuse what is there."""
    path, seal = run.weights(layer), run.weights_seal(layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        # first: a file without a digest would be taken for one that somebody has put there
        write_sealed(seal, {"sha256": hashlib.sha256(data).hexdigest()})


def fitted_on(run: RunDir, layer: str) -> str:
    """The period that a layer's weights were fitted on, as their file states it; empty for published weights."""
    period: str = _header(run.weights(layer).read_bytes()).get("period", "")
    return period


def checkpoint_of(data: bytes) -> str:
    """SHA-256 (hex) of the checkpoint that `fit` completed to the weights of a file; empty where it did not."""
    checkpoint: str = _header(data).get("checkpoint", "")
    return checkpoint


def parse_weights(data: bytes, campaign: Campaign, layer: str, origin: str) -> Weights:
    """Weights from the bytes of a safetensors file; `origin` is named in errors.

    Raises:
        RequestError: the bytes are not such a file, or the weights were made for another backbone or other bands, or
            fitted on another period than the layer's `fit` names. Without `fit`, any period is accepted.
    """
    weights, made_for = unpacked(data, origin)
    expected, period = _facts(campaign, layer), made_for.pop("period", "")
    if made_for != expected:
        raise RequestError(
            f"{origin}: made for {made_for}, layer {layer} asks for {expected}; "
            "remove the file to fit again, or give the layer another name"
        )
    if campaign.layers[layer].fit and period != period_of_fit(campaign, layer):
        raise RequestError(
            f"{printable_path(origin, 50)}: fitted on {period or 'a period that it does not state'}, "
            f"layers.{layer}.fit asks for {period_of_fit(campaign, layer)}; put the period back or leave `fit` out to "
            "keep these weights, or remove the file to fit again"
        )
    return weights


def unpacked(data: bytes, origin: str) -> tuple[Weights, dict[str, Any]]:
    """Weights of a file (`packed`), and what it states of itself: backbone, bands and period.

    Raises:
        RequestError: the bytes are not such a file.
    """
    try:
        tensors = safetensors.numpy.load(data)
        made_for = _header(data)
        mean, std = tensors.pop("embedcube.mean"), tensors.pop("embedcube.std")
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RequestError(
            f"{origin}: not a weights file of embedcube: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
    made_for.pop("checkpoint", None)
    return Weights(mean=mean, std=std, tensors=tensors), made_for


def _header(data: bytes) -> dict[str, Any]:
    """Backbone, bands and period that a weights file states in its header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header["__metadata__"]["embedcube"]))


def _facts(campaign: Campaign, layer: str) -> dict[str, Any]:
    """Backbone and bands that a layer's weights must have been made for."""
    block = campaign.layers[layer]
    bands = [campaign.archives[archive].bands for archive in block.archives]
    facts = facts_of(without_files(block.backbone), bands, block.over_time)
    facts |= {"reduce": block.reduce.model_dump()} if block.reduce else {}
    return facts | ({"centre": True} if block.centre else {})


def facts_of(backbone: Mapping[str, Any], bands: Sequence[Sequence[str]], over_time: str | None) -> dict[str, Any]:
    """Backbone and bands that weights are made for, without `reduce` and `centre`."""
    facts: dict[str, Any] = {"backbone": dict(backbone), "bands": [list(of) for of in bands]}
    return facts | ({"over_time": over_time} if over_time else {})


def is_ours(data: bytes) -> bool:
    """Whether the bytes are a weights file of embedcube, by its header."""
    # a safetensors file begins with the length of its JSON header
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return header.startswith(b"{") and b'"embedcube"' in header


def packed(campaign: Campaign, name: str, weights: Weights, *, period: str, checkpoint: str = "") -> bytes:
    """The bytes of a weights file (safetensors) for the layer `name`, with the SHA-256 of what `fit` completed."""
    tensors: dict[str, NDArray[Any]] = {
        "embedcube.mean": weights.mean,
        "embedcube.std": weights.std,
        **weights.tensors,
    }
    # one key: safetensors writes several in an order that changes from run to run
    facts = _facts(campaign, name) | {"period": period} | ({"checkpoint": checkpoint} if checkpoint else {})
    header = json.dumps(facts, sort_keys=True)
    return safetensors.numpy.save(tensors, metadata={"embedcube": header})
