"""fit: a sample -> frozen weights. Fitted once; while the file exists it is never fitted again."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from embedcube.assemble import make_backbone, make_grid, make_source
from embedcube.backbones.base import Weights
from embedcube.config import Campaign
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.inventory import read_inventory
from embedcube.progress import Progress, silent
from embedcube.raster import RasterReader
from embedcube.rundir import RunDir, write_atomically
from embedcube.scene import Scene
from embedcube.sources.base import Source

SAMPLE_CHIPS = 64
"""chips that a fit looks at, spread over scenes and places"""

_TRIES_PER_CHIP = 8
_CLEAR_SHARE = 0.5
"""of a chip's pixels that must be clear for it to be looked at"""


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """What `fit` says of a layer."""

    layer: str
    digest: str
    fresh: bool
    """fitted now, not found"""


def fit(campaign: Campaign, run: RunDir, progress: Progress = silent) -> list[FittedLayer]:
    """Make sure that every layer has its frozen weights, and return their digests.

    Raises:
        RequestError: weights that are there were made for another backbone.
    """
    fitted = []
    for name, layer in campaign.layers.items():
        path = run.weights(name)
        fresh = not path.exists()
        if fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _taken(campaign, name) if layer.weights else _fitted(campaign, run, name, progress))
        elif layer.weights and layer.weights.read_bytes() != path.read_bytes():
            raise RequestError(
                f"layers.{name}.weights: {layer.weights} differs from {path}, which the run uses already"
            )
        fitted.append(FittedLayer(layer=name, digest=read_weights(campaign, run, name)[1], fresh=fresh))
    return fitted


def read_weights(campaign: Campaign, run: RunDir, layer: str) -> tuple[Weights, str]:
    """The frozen weights of a layer, and the SHA-256 (hex) of their file.

    Raises:
        RequestError: there are none, or they belong to another backbone.
    """
    path = run.weights(layer)
    if not path.exists():
        raise RequestError(f"{path}: layer {layer} has no weights yet; run `embedcube fit` first")
    data = path.read_bytes()
    return parse_weights(data, campaign, layer, f"{path}"), hashlib.sha256(data).hexdigest()


def parse_weights(data: bytes, campaign: Campaign, layer: str, origin: str) -> Weights:
    """Weights from the bytes of a safetensors file; `origin` is named in errors.

    Raises:
        RequestError: not such a file, or made for another backbone or other bands.
    """
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        made_for = json.loads(header["__metadata__"]["embedcube"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise RequestError(f"{origin}: not a weights file of embedcube: {error}") from None
    wanted = _facts(campaign, layer)
    if made_for != wanted:
        raise RequestError(
            f"{origin}: made for {made_for}, layer {layer} asks for {wanted}; "
            "remove the file to fit again, or name the layer otherwise"
        )
    return Weights(mean=tensors.pop("embedcube.mean"), std=tensors.pop("embedcube.std"), tensors=tensors)


def _facts(campaign: Campaign, layer: str) -> dict[str, Any]:
    """What weights must have been made for."""
    block = campaign.layers[layer]
    return {"backbone": block.backbone, "bands": list(campaign.archives[block.archive].bands)}


def _taken(campaign: Campaign, name: str) -> bytes:
    path = campaign.layers[name].weights
    assert path is not None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"layers.{name}.weights: cannot be read: {error}") from None
    parse_weights(data, campaign, name, str(path))
    return data


def _fitted(campaign: Campaign, run: RunDir, name: str, progress: Progress) -> bytes:
    layer = campaign.layers[name]
    scenes = [scene for scene in read_inventory(campaign, run) if scene.archive == layer.archive and not scene.verdict]
    source, backbone = make_source(campaign, layer.archive), make_backbone(campaign, name)
    sample = sample_chips(source, scenes, make_grid(campaign), layer.chip_px, progress)
    try:
        weights = backbone.fit(sample)
    except ValueError as error:
        raise RequestError(f"layers.{name}.backbone: {error}") from None
    tensors: dict[str, NDArray[Any]] = {
        "embedcube.mean": weights.mean,
        "embedcube.std": weights.std,
        **weights.tensors,
    }
    # one key: safetensors writes several in an order that changes from run to run
    facts = json.dumps(_facts(campaign, name), sort_keys=True)
    return safetensors.numpy.save(tensors, metadata={"embedcube": facts})


def sample_chips(
    source: Source, scenes: list[Scene], grid: Grid, chip_px: int, progress: Progress
) -> NDArray[np.float32]:
    """Chips (n, C, chip_px, chip_px) of single scenes, NaN where masked, evenly over time and seeded over places.

    Scenes that cannot be read are passed over here; `embed` will say so.
    """
    rng = np.random.default_rng(0)
    reader = RasterReader(threads=1)
    chips: list[NDArray[np.float32]] = []
    usable = list(scenes)
    try:
        for draw in range(SAMPLE_CHIPS * _TRIES_PER_CHIP):
            if len(chips) == SAMPLE_CHIPS or not usable:
                break
            scene = usable[draw * 7919 % len(usable)]  # a prime stride: neighbours in time are not neighbours here
            area = _random_area(scene, grid, chip_px, rng)
            try:
                seen = source.observe(scene, grid, area, reader)
            except CorruptInput:
                usable.remove(scene)
                continue
            if seen.clear_yx.mean() >= _CLEAR_SHARE:
                chips.append(np.where(seen.clear_yx, seen.values_cyx.astype(np.float32), np.float32("nan")))
                progress(len(chips), SAMPLE_CHIPS)
    finally:
        reader.close()
    if not chips:
        raise RequestError(
            f"no chip of {chip_px} px that is half clear was found in {len(scenes)} scenes; "
            "is the mask's list of clear classes right?"
        )
    return np.stack(chips)


def _random_area(scene: Scene, grid: Grid, chip_px: int, rng: np.random.Generator) -> PixelArea:
    xmin, ymin, xmax, ymax = scene.bounds_in(grid.crs)
    rows, cols = grid.rows_cols(np.array([xmin, xmax]), np.array([ymax, ymin]))

    def start(first: int, last: int) -> int:
        return int(rng.integers(first, max(first + 1, last - chip_px + 1)))

    return PixelArea(row=start(*map(int, rows)), col=start(*map(int, cols)), rows=chip_px, cols=chip_px)
