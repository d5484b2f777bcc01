"""Blocks of files that small shards decode again and again, and the shards that would not."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedcube.campaign.price import Price
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, make_layout
from embedcube.grid import Grid
from embedcube.kernel.layer import LayerContext
from embedcube.prepare.draw_groups import AMPLIFICATION_GOAL, ReadCost, draw_groups
from embedcube.prepare.listed import cost_of_list, deepest
from embedcube.prepare.pieces import Linked, Pieces
from embedcube.prepare.price import DECODE_BYTES_PER_S, Activations, over_limit, price_layer, total_price
from embedcube.prepare.shards import cut_in_pieces
from embedcube.zones import SampleList

_LARGEST_SHARD_PX = 1 << 14
"""side of the largest shard that is proposed: tiles of satellite images are smaller"""

_LEAST_GAIN_S = 60.0
"""nothing is proposed where it could not spare more CPU seconds than this"""

_MOST_LINKS = 200_000
"""pairs of a shard and a scene for which all windows are tried with other sizes; of more, some windows stand for all"""


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """What shards of another size would do."""

    chips: int
    """along a side"""
    times: float
    """how often they decode each block"""
    shards: int


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which shards would decode less."""

    words: str = ""
    shard_chips: int = 0
    """0 where the layer's own are the best that were found"""


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """What it costs to read and embed a layer, with its own shards or with others."""

    campaign: Campaign
    name: str
    scenes: Sequence[Scene]
    context: LayerContext
    activations: Activations
    batch_s: float
    """seconds of one batch"""
    loaded_bytes: list[int]
    """bytes of the weights of each layer of the campaign"""
    device_limit_bytes: float
    """memory of the GPU; 0 where there is none"""
    share: float = 1.0
    """of the windows that these costs are of: as large a share of the ranks works on them"""

    def of_zone(self, pieces: Pieces, linked: Linked, zone: Grid | SampleList) -> tuple[ReadCost, Price]:
        """Draw groups and price of the shards of one zone."""
        how, layer = self.campaign.how, self.campaign.layers[self.name]
        context = replace(self.context, zones={zone.name: zone})
        if isinstance(zone, Grid):
            deep = linked.most
            reading = draw_groups(
                pieces,
                self.scenes,
                self.campaign.all_windows,
                zone,
                context.layout,
                ranks=self._ranks,
                cache_bytes=how.cache_mb << 20,
            )
        else:
            shards = pieces.whole()
            deep = deepest(shards, self.scenes, context.layout)
            reading = cost_of_list(shards, self.scenes)
        own = [scene for scene in self.scenes if scene.archive in layer.archives]
        threads = how.threads_per_rank
        price = price_layer(layer, pieces, linked, own, deep, reading, self.batch_s, threads, context, self.activations)
        bands = np.array([len(scene.assets) for scene in self.scenes], dtype=np.int64)
        return reading, replace(price, reads=int(linked.of_scene @ bands))

    def total(self, prices: list[Price]) -> Price:
        """The price of the layer on all its grids, alone in a campaign but for the weights of the others."""
        return total_price(prices, self.loaded_bytes, self.campaign.how, self.device_limit_bytes)

    def advice(self, prices: list[Price]) -> Advice:
        """Which `shard_chips` decodes each block about once; nothing where the shards of these prices do.

        Shards are never proposed that need more memory than a rank may take.
        """
        now, tried, more = self.total(prices), list[_Tried](), ""
        spared_s = (now.decoded_bytes - now.needed_bytes) / DECODE_BYTES_PER_S
        if now.amplification <= AMPLIFICATION_GOAL or spared_s < _LEAST_GAIN_S:
            return Advice()
        layout, ranks, some = self.context.layout, self._ranks, self._of_some_windows(now)
        # blocks that several windows need are not seen in some of them
        unseen = now.amplification / some._with_chips(layout.chips).amplification if some is not self else 1.0
        for chips in self._larger():
            price = some._with_chips(chips)
            if over_limit(price):
                more = "; larger ones do not fit into memory: raise how.mem_gb or how.cache_mb"
                break
            of_all = price.shards * len(self.campaign.all_windows) // len(some.campaign.all_windows)
            tried.append(_Tried(chips=chips, times=unseen * price.amplification, shards=of_all))
            if tried[-1].times <= AMPLIFICATION_GOAL:
                break
        problem = f"shards of {layout.shard_px} px decode each block of the files {now.amplification:.1f} times"
        best = min(tried, key=lambda one: one.times, default=None)
        if best is None or best.times >= now.amplification:
            return Advice(words=f"{problem}{more or '; no larger ones do it less often'}")
        shards = "" if best.shards >= ranks else f", in {best.shards} shards for {ranks} ranks"
        cure = f"{problem}, `shard_chips: {best.chips}` decodes them {best.times:.1f} times{shards}"
        words = cure if best.times <= AMPLIFICATION_GOAL else f"{cure}{more}"
        return Advice(words=words, shard_chips=best.chips)

    def _of_some_windows(self, now: Price) -> "LayerCosts":
        """The costs of as many windows as are tried at once, evenly spread, and of their scenes."""
        windows = self.campaign.all_windows
        count = max(1, len(windows) * _MOST_LINKS // max(1, now.scenes))
        if count >= len(windows):
            return self
        chosen = [windows[i * len(windows) // count] for i in range(count)]
        spans = tuple((window.start, window.end) for window in chosen)
        scenes = [scene for scene in self.scenes if any(scene.meets(window) for window in chosen)]
        campaign = self.campaign.model_copy(update={"windows": spans})
        return replace(self, campaign=campaign, scenes=scenes, share=count / len(windows))

    @property
    def _ranks(self) -> int:
        how = self.campaign.how
        return max(1, round(self.share * how.tasks * how.nodes * how.ranks))

    def _larger(self) -> list[int]:
        """Numbers of chips along a side that are worth a try, rising: some of all sizes, and those of whole blocks."""
        layout = self.context.layout
        blocks = Counter(max(a.block_rows, a.block_cols) for scene in self.scenes for a in scene.assets)
        sides = {2**power * odd for power in range(12) for odd in (1, 3)}
        sides |= {math.lcm(layout.keep_px, block) // layout.keep_px for block, _ in blocks.most_common(2)}
        return sorted(chips for chips in sides if layout.chips < chips <= _LARGEST_SHARD_PX / layout.keep_px)

    def _with_chips(self, chips: int) -> Price:
        """The price of the layer with shards of so many chips along a side."""
        layer = self.campaign.layers[self.name].model_copy(update={"shard_chips": chips})
        layers = self.campaign.layers | {self.name: layer}
        campaign = self.campaign.model_copy(update={"layers": layers})
        other = replace(self, campaign=campaign, context=replace(self.context, layout=make_layout(layer)))
        prices = []
        for grid in self.context.grids.values():
            if (found := cut_in_pieces(campaign, self.name, grid, self.scenes)) is not None:
                linked = Linked.of(campaign, self.name, found[0], self.scenes)
                prices.append(other.of_zone(found[0], linked, grid)[1])
        return other.total(prices)
