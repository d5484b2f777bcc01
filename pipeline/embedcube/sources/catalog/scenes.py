"""From products to scenes: an error on one product is its verdict, and costs no other product."""

import logging
from collections.abc import Callable

from embedcube.campaign.scene import NOWHERE, Scene, unforeseen
from embedcube.errors import EmbedcubeError
from embedcube.printable import printable
from embedcube.sources.catalog.files import lasting
from embedcube.sources.catalog.products import Product

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
