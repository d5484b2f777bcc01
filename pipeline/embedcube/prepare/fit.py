"""fit: a sample to frozen weights. Weights are fitted once; while their file exists they are never fitted again."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from embedcube.backbones.base import Backbone, Weights, make_backbone
from embedcube.backbones.from_vectors import FromVectors
from embedcube.backbones.weights import checkpoint_of, is_ours, packed, parse_weights, read_weights, write_weights
from embedcube.campaign.base import open_base
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.plugins import plugin
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign, period_of_fit
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.prepare.fit_sample import fit_parts, fit_sample
from embedcube.prepare.large_blocks import refuse_too_large
from embedcube.progress import Progress, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """The result of `fit` for one layer."""

    layer: str
    digest: str
    fresh: bool
    """whether the weights were fitted now; else they existed"""
    passed_over: dict[str, str]
    """reason for each scene that could not be read during the fit"""


def fit(campaign: Campaign, run: RunDir, progress: Progress = silent) -> list[FittedLayer]:
    """Make sure that every layer has its frozen weights, and return their digests.

    Raises:
        RequestError: the existing weights were made for another backbone, or fitted on another period.
    """
    fitted = []
    for name, layer in campaign.layers.items():
        # first of all: weights made for a wrong option are not what is wrong
        backbone = make_backbone(campaign, name)
        path = run.weights(name)
        fresh, passed_over = not path.exists(), dict[str, str]()
        if fresh:
            taken = _taken(campaign, name, backbone) if layer.weights else None
            if isinstance(taken, bytes):
                data = taken
            elif taken is None and (of_base := _of_base(campaign, run, name)):
                data, fresh = of_base, False
            else:
                data, passed_over = _fitted(campaign, run, name, backbone, progress, taken)
            write_weights(run, name, data)
        elif layer.weights and _differs(_taken(campaign, name, backbone), layer.weights, path):
            raise RequestError(
                f"layers.{name}.weights: {layer.weights} differs from {path}, which the run uses already; to use "
                "the former, or to try its model with other chips, remove the latter"
            )
        digest = read_weights(campaign, run, name)[1]
        fitted.append(FittedLayer(layer=name, digest=digest, fresh=fresh, passed_over=passed_over))
    return fitted


def _differs(taken: bytes | Weights, named: Path, path: Path) -> bool:
    """Whether the file that a layer names is another one than that which the run uses.

    Where `fit` completed a checkpoint, the run's file keeps the checkpoint's digest.
    """
    if isinstance(taken, bytes):
        return taken != path.read_bytes()
    return checkpoint_of(path.read_bytes()) != _digest_of(named)


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fetch(campaign: Campaign, run: RunDir) -> dict[str, str]:
    """Download published weights for the layers without weights, on a node with internet; returns their SHA-256.

    They become the frozen weights of the run, which `fit` then uses.

    Raises:
        RequestError: a file has another SHA-256 than `weights_sha256`, or is not of the model.
        WorkError: the download failed.
    """
    fetched = {}
    for name, layer in campaign.layers.items():
        kind, path = plugin("backbones", layer.backbone["name"]), run.weights(name)
        hubs = {card.model: card.hub for card in kind.cards()}
        hub = hubs.get(layer.backbone.get("model", ""))
        if hub is None or layer.weights or path.exists() or "random_seed" in layer.backbone:
            continue
        # checked and read as if the campaign named the file with `weights`
        file = _downloaded(*hub)
        named = layer.model_copy(update={"weights": file})
        asking = campaign.model_copy(update={"layers": {**campaign.layers, name: named}})
        taken = _taken(asking, name, make_backbone(asking, name))
        if not isinstance(taken, bytes):
            raise RequestError(
                f"layers.{name}: fetch its weights without `reduce` and `centre`, and name their file with `weights`"
            )
        write_weights(run, name, taken)
        fetched[name] = _digest_of(file)
    return fetched


def _downloaded(repository: str, file: str) -> Path:
    """Path of the downloaded file in the cache of the hub (HF_HOME)."""
    try:
        import huggingface_hub
    except ImportError:
        raise RequestError("`embedcube weights` needs huggingface_hub: pip install 'embedcube[terratorch]'") from None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except Exception as error:  # many types: no connection, no such file, no permission
        reason = str(error).strip().partition("\n")[0]
        raise WorkError(
            f"{repository}/{file} could not be fetched: {reason}. Where there is no internet, fetch it elsewhere and "
            "name the file with the layer's key `weights`"
        ) from None


def _taken(campaign: Campaign, name: str, backbone: Backbone) -> bytes | Weights:
    """Weights file for the layer, from the file that it names: one of embedcube unchanged, a checkpoint converted.

    Where `fit` adds to a checkpoint, the weights that it adds to.
    """
    layer = campaign.layers[name]
    assert layer.weights is not None
    try:
        data = layer.weights.read_bytes()
    except OSError as error:
        raise RequestError(f"layers.{name}.weights: cannot be read: {error}") from None
    digest = hashlib.sha256(data).hexdigest()
    if layer.weights_sha256 not in (None, digest):
        raise RequestError(
            f"layers.{name}.weights: {layer.weights} has the SHA-256 {digest}, weights_sha256 is {layer.weights_sha256}"
        )
    if is_ours(data):
        parse_weights(data, campaign, name, str(layer.weights))
        return data
    try:
        loaded = backbone.load(data)
        return loaded if isinstance(backbone, FromVectors) else packed(campaign, name, loaded, period="")
    except ValueError as error:
        raise RequestError(f"layers.{name}.weights: {layer.weights}: {error}") from None


def _of_base(campaign: Campaign, run: RunDir, name: str) -> bytes | None:
    """The base's weights file for the layer; None where it has none for this backbone, these bands and this period."""
    if campaign.how.base is None:
        return None
    base = open_base(campaign.how.base)
    try:
        if base.run is not None and base.run.root != run.root.resolve() and base.run.weights(name).exists():
            read_weights(campaign, base.run, name)
            return base.run.weights(name).read_bytes()
        # None of a layer that the base has not, or whose weights were published
        data = Cube(base.cube).provenance.weights(name) if base.cube else None
        if data is not None:
            parse_weights(data, campaign, name, f"{base.path}: layer {name}")
        return data
    except RequestError as error:
        log.warning("layers.%s: fitted again, as the weights of the base cannot be used: %s", name, error)
        return None


def _fitted(
    campaign: Campaign, run: RunDir, name: str, backbone: Backbone, progress: Progress, loaded: Weights | None
) -> tuple[bytes, dict[str, str]]:
    """Weights file from a sample of the archives; with what was `loaded` from a checkpoint, where there is one."""
    try:
        scenes = read_inventory(campaign, run)
        refuse_too_large(scenes, campaign.layers[name].archives, campaign.how)
        passed_over = dict[str, str]()
        if isinstance(backbone, FromVectors) and (loaded or backbone.vector_chips != backbone.fit_chips):
            if (begun := loaded) is None:
                sample, passed_over = fit_sample(campaign, name, scenes, backbone.fit_chips, progress)
                begun = backbone.begin(sample)
            parts = fit_parts(campaign, name, scenes, backbone.vector_chips, passed_over, progress)
            weights = backbone.complete(begun, parts)
        else:
            sample, passed_over = fit_sample(campaign, name, scenes, backbone.fit_chips, progress)
            weights = backbone.fit(sample)
        named = campaign.layers[name].weights
        checkpoint = _digest_of(named) if named and loaded else ""
        return packed(campaign, name, weights, period=period_of_fit(campaign, name), checkpoint=checkpoint), passed_over
    except ValueError as error:
        raise RequestError(f"layers.{name}.backbone: {error}") from None
