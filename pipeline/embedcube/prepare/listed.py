"""The shards of a list of samples, with their scenes, and what it costs to read them."""

from collections.abc import Sequence

import numpy as np

from embedcube.campaign.plan import Ints, Shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.zones import layout_of
from embedcube.grid import ShardLayout, ShardRange
from embedcube.prepare.draw_groups import ReadCost
from embedcube.zones import SampleList


def cut_list(campaign: Campaign, name: str, samples: SampleList, scenes: Sequence[Scene]) -> tuple[Shards, ShardRange]:
    """The shards of a layer's list in every window, with their scenes; and their rows and their single column."""
    layout = layout_of(campaign, name)
    count = samples.shards(layout)
    number = {one: i for i, one in enumerate(samples.ids)}
    archives = campaign.layers[name].archives
    order = sorted(
        (i for i, scene in enumerate(scenes) if scene.archive in archives and not scene.superseded_by),
        key=lambda i: (scenes[i].acquisition, scenes[i].time, scenes[i].id),
    )
    touched = [
        np.unique(np.array([number[one.id] // layout.slots for one in scenes[i].samples], dtype=np.int64))
        for i in order
    ]
    firsts, links = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for window in campaign.all_windows:
        met = [k for k, i in enumerate(order) if scenes[i].meets(window)]
        rows = np.concatenate([np.zeros(0, np.int64), *(touched[k] for k in met)])
        of = np.repeat(np.array([order[k] for k in met], dtype=np.int64), [len(touched[k]) for k in met])
        # stable: within a shard the order of compositing stays
        by_row = np.argsort(rows, kind="stable")
        links.append(of[by_row])
        firsts.append(firsts[-1][-1] + np.cumsum(np.bincount(rows.astype(np.int64), minlength=count)))
    windows = len(campaign.all_windows)
    shards = Shards(
        t=np.repeat(np.arange(windows), count),
        row=np.tile(np.arange(count), windows),
        col=np.zeros(windows * count, dtype=np.int64),
        first=np.concatenate(firsts),
        scenes=np.concatenate(links),
    )
    return shards, ShardRange(row=0, col=0, rows=count, cols=1)


def cost_of_list(shards: Shards, scenes: Sequence[Scene]) -> ReadCost:
    """Shards that begin with the same scene are one draw group, which keeps its file open."""
    size = np.array([float(sum(asset.size for asset in scene.assets)) for scene in scenes])
    links = np.diff(shards.first)
    of_shard = np.repeat(np.arange(len(links)), links)
    linked = size[shards.scenes] if len(shards.scenes) else np.zeros(0)
    decoded = np.bincount(of_shard, linked, minlength=len(links)).astype(np.float64)
    begins = np.where(links > 0, np.append(shards.scenes, 0)[shards.first[:-1]], -1 - np.arange(len(links)))
    _, group = np.unique(np.stack([shards.t, begins]), axis=1, return_inverse=True)
    return ReadCost(
        side=1,
        group=np.asarray(group, dtype=np.int64).ravel(),
        decoded=decoded,
        needed_bytes=float(decoded.sum()),
        cache_bytes=0.0,
    )


def deepest(shards: Shards, scenes: Sequence[Scene], layout: ShardLayout) -> int:
    """Scenes over each other at one place, at most, as far as the numbers of samples tell."""
    held: Ints = np.array([min(len(scene.samples), layout.slots) for scene in scenes], dtype=np.int64)
    links = np.diff(shards.first)
    of_shard = np.repeat(np.arange(len(links)), links)
    most = np.bincount(of_shard, held[shards.scenes], minlength=len(links)).max(initial=0)
    return max(1, -(-int(most) // layout.slots))
