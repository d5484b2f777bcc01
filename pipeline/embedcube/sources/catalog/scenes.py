"""From products to scenes: an error on one product is its verdict, and costs no other product."""

import logging
from collections.abc import Callable
from dataclasses import replace

from embedcube.campaign.scene import NOWHERE, Scene, unforeseen
from embedcube.errors import EmbedcubeError
from embedcube.printable import is_plain, printable
from embedcube.sources.catalog.files import lasting, unusable_name
from embedcube.sources.catalog.products import ID_CHARACTERS, Product, product_id

_VERDICT = 2000
"""most characters of a verdict"""

log = logging.getLogger(__name__)


def scene_or_verdict(archive: str, product: Product, make: Callable[[], Scene]) -> Scene:
    """The scene that `make` makes of a product; where it fails, a scene that cannot be used and names the error.

    Raises:
        EmbedcubeError: the archive as a whole is refused.
        OSError: a file could not be read for a reason that may pass.
    """
    try:
        return make()
    except EmbedcubeError:
        raise
    except Exception as error:
        words = lasting(error) if isinstance(error, OSError) else unforeseen(error)
        if not words:
            raise
        log.debug("%s", printable(product.id), exc_info=True)
        return Scene(
            id=product.id,
            archive=archive,
            time=product.time,
            end=product.end,
            acquisition=product.id,
            bbox=product.bbox or NOWHERE,
            verdict=f"a part of it {words}" if isinstance(error, OSError) else words,
        )


def storable(scene: Scene) -> Scene:
    """The scene with texts that can be printed and stored.

    Whatever the source: no credentials, no control characters, no text without end; and no file that has them in its
    name, as its path must stay what it is.
    """
    texts = [scene.id, scene.acquisition, scene.superseded_by, scene.processing, scene.verdict]
    texts += [text for asset in scene.assets for text in (asset.path, asset.inner)]
    if max(map(len, texts)) <= ID_CHARACTERS and is_plain("".join(texts)):
        return scene  # as nearly all are
    wrong = [f"{asset.path} {words}" for asset in scene.assets if (words := unusable_name(asset.path + asset.inner))]
    verdict = printable("; ".join(filter(None, (scene.verdict, *wrong))), _VERDICT)
    return replace(
        scene,
        id=product_id(scene.id),
        acquisition=product_id(scene.acquisition),
        superseded_by=product_id(scene.superseded_by),
        processing=printable(scene.processing, _VERDICT),
        verdict=verdict,
        assets=() if wrong else scene.assets,
    )
