"""What a source of scenes must do. `sentinel2.py` beside this file is a small real one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.config import Archive
from embedcube.grid import Grid, PixelArea
from embedcube.raster import RasterReader
from embedcube.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one scene shows of an area."""

    values_cyx: NDArray[Any]
    """bands in the campaign's order; meaningless where not `seen`"""
    seen_yx: NDArray[np.bool_]
    """every band has data"""
    clear_yx: NDArray[np.bool_]
    """seen, and not masked: only these pixels enter a composite"""


class Source(Protocol):
    """One archive of a campaign: finds its scenes, and reads one scene on one area.

    Made by `Source(name, archive)`; registered as an entry point of the group `embedcube.sources`.
    """

    def __init__(self, name: str, archive: Archive) -> None:
        """`name` is the archive's name in the campaign."""
        ...

    @property
    def collection(self) -> str:
        """A URI of what the scenes are."""
        ...

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """Every scene of the archive, each one once, in a fixed order.

        One that cannot be used comes with the reason as its `verdict`; nothing that was found is left out.
        `full_digests` asks for the digest of every byte where the catalogue has no checksum.
        """
        ...

    def observe(self, scene: Scene, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """What `scene` shows of `area`.

        Raises:
            CorruptInput: the scene is wrong in its bytes.
            OSError: it could not be read for a reason that may pass.
        """
        ...
