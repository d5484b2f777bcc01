"""What a source of scenes must do. `sentinel2.py` beside this file is a small real one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive, Campaign
from embedcube.grid import Grid, PixelArea
from embedcube.sources.composite import Composite
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one scene shows of an area."""

    values_cyx: NDArray[Any]
    """bands in the campaign's order; meaningless where not `seen`"""
    seen_yx: NDArray[np.bool_]
    """every band has data"""
    clear_yx: NDArray[np.bool_]
    """seen, and not masked: only these pixels enter a composite"""
    share_c: tuple[float, ...] = ()
    """of a series: the share of the frame that the steps of each band fill; values mean nothing where it is 0"""


class Source(Protocol):
    """One archive of a campaign: finds its scenes, reads one scene on one area, and makes one picture of several.

    Made by `Source(name, archive)`; registered as an entry point of the group `embedcube.sources`. The constructor
    refuses wrong options with a ValueError, or with a RequestError that names the key (exit 2). Any other exception
    but an OSError is a bug of the plugin and is reported as one (exit 1).
    """

    def __init__(self, name: str, archive: Archive) -> None:
        """`name` is the archive's name in the campaign."""
        ...

    @property
    def collection(self) -> str:
        """A URI of what the scenes are."""
        ...

    @property
    def counted(self) -> bool:
        """Whether scenes are looks at a place, which clouds or a swath's edge may miss.

        Else they are fields that are everywhere (weather, terrain): beside acquisitions they make no cell valid.
        """
        ...

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """Every scene of the archive, each one once, in a fixed order.

        One that cannot be used comes with the reason as its `verdict`; nothing that was found is left out.
        `full_digests` asks for the digest of every byte where the catalogue has no checksum.
        """
        ...

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """What `scene` shows of `area` within `frame`. Several threads ask at once, for several scenes.

        Raises:
            CorruptInput: the scene is wrong in its bytes.
            OSError: it could not be read for a reason that may pass.
        """
        ...

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """One picture of (acquisition, observation) of one frame, neighbours where the acquisition is the same.

        Each pixel on its own: several threads ask at once, for several strips of a shard.
        """
        ...


def make_source(campaign: Campaign, archive: str) -> Source:
    """The source of one archive."""
    block = campaign.archives[archive]
    source: Source = make_plugin("sources", block.source, f"archives.{archive}", archive, block)
    return source


def counted_archives(campaign: Campaign, layer_name: str) -> tuple[str, ...]:
    """Those of a layer whose scenes make a cell valid and are counted: acquisitions, or fields where it has none."""
    names = campaign.layers[layer_name].archives
    return tuple(name for name in names if make_source(campaign, name).counted) or names
