"""The contract of a source of scenes. `fields.py` beside this file is a small real one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.options import PluginOptions
from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive, Campaign
from embedcube.grid import Grid, PixelArea
from embedcube.sources.composite import Composite
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window
from embedcube.zones import SampleList


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The pixels of one scene on an area of the grid."""

    values_cyx: NDArray[Any]
    """bands in the campaign's order; meaningless where `seen_yx` is False"""
    seen_yx: NDArray[np.bool_]
    """whether every band has data"""
    clear_yx: NDArray[np.bool_]
    """whether a pixel is seen and not masked; only clear pixels enter a composite"""
    fills: bool = False
    """whether it only fills pixels that no other observation of its acquisition shows, clear or not"""
    share_c: tuple[float, ...] = ()
    """for a series: share of the frame that the time steps of each band fill; where it is 0, the values mean nothing"""
    share_cyx: NDArray[np.float64] | None = None
    """the same of the steps that have a value at a pixel; None if all have one where `clear_yx` is True"""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the frame that the steps of each band fill at each pixel (band, row, column)."""
        if self.share_cyx is not None:
            return self.share_cyx
        return np.where(self.clear_yx, np.array(self.share_c)[:, None, None], 0.0)

    def strip(self, rows: slice) -> "Observation":
        """Some rows of all pixels."""
        share_cyx = None if self.share_cyx is None else self.share_cyx[:, rows]
        return replace(
            self,
            values_cyx=self.values_cyx[:, rows],
            seen_yx=self.seen_yx[rows],
            clear_yx=self.clear_yx[rows],
            share_cyx=share_cyx,
        )


class Source(Protocol):
    """One archive of a campaign: finds its scenes, reads a scene on an area of the grid, and composites several scenes.

    A source is registered as an entry point of the group `embedcube.sources`. The constructor refuses wrong options
    with a ValueError, or with a RequestError that names the key (exit 2). Any other exception but an OSError is a bug
    of the plugin and is reported as one (exit 1).
    """

    def __init__(self, name: str, archive: Archive) -> None:
        """`name` is the archive's name in the campaign.

        Raises:
            RequestError: an option or a key of the archive is wrong for this source.
        """
        ...

    @property
    def options(self) -> type[PluginOptions]:
        """The block of its options, as an attribute of the class; `PluginOptions` itself if there are none.

        `read_options` checks a campaign by it; `embedcube sources`, the JSON Schema and the reference show it.
        """
        ...

    @property
    def collection(self) -> str:
        """URI of the data set, for the cube's metadata."""
        ...

    @property
    def counted(self) -> bool:
        """Whether scenes are acquisitions, which may miss a place because of clouds or the edge of a swath.

        If False, scenes are fields that cover every place (weather, terrain). In a layer that also has acquisitions,
        fields make no cell valid.
        """
        ...

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """Every scene of the archive, each once, in a fixed order.

        A scene that cannot be used has the reason as its `verdict`; no scene that was found is left out.
        `full_digests` asks for digests over every byte where the catalogue has no checksum.

        Raises:
            RequestError: the archive is not what the campaign says.
            OSError: a file could not be read for a reason that may pass.
        """
        ...

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """Read `scene` on `area`, for the time of `frame`. Several threads call this at once, for different scenes.

        Raises:
            CorruptInput: the bytes of the scene are wrong.
            OSError: the scene could not be read for a reason that may pass.
        """
        ...

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """Composite the observations of one frame, given as pairs (acquisition, observation).

        Observations of one acquisition stand next to each other. Each pixel must depend on its own values only:
        several threads call this at once, for different strips of a shard.
        """
        ...


class SampleSource(Protocol):
    """A source of samples on no common grid, each with an id; all else is as in `Source`.

    Its scenes have `samples`, and `observe_samples` takes the place of `observe`.
    """

    def observe_samples(
        self, scene: Scene, frame: Window, samples: SampleList, side_px: int, reader: RasterReader
    ) -> Observation:
        """Read some samples of `scene`, `side_px` pixels square around their centres, below each other.

        Raises:
            CorruptInput: the bytes of the scene are wrong, or a sample is smaller than that.
            OSError: the scene could not be read for a reason that may pass.
        """
        ...


def make_source(campaign: Campaign, archive: str) -> Source:
    """Make the source of one archive.

    Raises:
        RequestError: no such source is installed, or it refuses the archive.
    """
    block = campaign.archives[archive]
    source: Source = make_plugin("sources", block.source, f"archives.{archive}", archive, block)
    return source


def counted_archives(campaign: Campaign, layer_name: str) -> tuple[str, ...]:
    """Archives of a layer whose scenes are counted and make cells valid: acquisitions, or fields if there are none."""
    names = campaign.layers[layer_name].archives
    return tuple(name for name in names if make_source(campaign, name).counted) or names
