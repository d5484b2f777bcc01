"""The two sides of a comparison (`campaign/reasons.py`), read from a run folder or from a cube."""

from collections.abc import Iterator
from dataclasses import replace

from embedcube.campaign.base import Base
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Plan, Shard, read_any_plan, read_shards
from embedcube.campaign.reasons import Account
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.rebuilt import Rebuilt, rebuild
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

UNREADABLE = (RequestError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
"""errors of a cube or a run folder that does not say enough, as those of earlier versions, or that is damaged"""


def account_of_run(campaign: Campaign, run: RunDir, plan: Plan) -> Account:
    """What the plan of a run folder says of its shards, in the present round."""
    shards = (shard for group in read_shards(run, plan) for shard in group)
    return Account(campaign=campaign, plan=plan, scenes=read_inventory(campaign, run, plan.inventory), shards=shards)


def account_of_cube(cube: Cube) -> Account:
    """What a cube says of its shards.

    Raises:
        RequestError: it was made by an earlier version of embedcube, which did not say how recipes are made.
    """
    if "planned" not in cube.provenance.attributes:
        raise RequestError(f"{cube.address}: made by an earlier version of embedcube, which did not say enough")
    said = rebuild(cube)
    return Account(campaign=said.campaign, plan=said, scenes=said.scenes, shards=shards_of(cube, said))


def account_of_base(base: Base) -> Account:
    """What a base says of its shards: the plan of a run folder that is named itself, else its cube.

    Raises:
        RequestError: neither can be read.
    """
    if base.run is not None and base.has_parts:
        try:
            campaign = load_campaign(base.run.campaign, mounted=False)
            return account_of_run(campaign, base.run, read_any_plan(base.run))
        except RequestError:
            if base.cube is None:
                raise
    if base.cube is None:
        raise RequestError(f"{base.path}: there is neither a plan nor a cube")
    return account_of_cube(Cube(base.cube))


def shards_of(cube: Cube, said: Rebuilt) -> Iterator[Shard]:
    """The shards of a cube, as a plan has them."""
    provenance = cube.provenance
    recipes = provenance.array("shard_recipe")
    first, linked = provenance.array("link_first"), provenance.array("link_scene")
    for (zone, t, iy, ix), row in provenance.places.items():
        layer, _, name = zone.partition("/")
        place = said.layers[layer].zones[name]
        yield Shard(
            layer=layer, zone=name, t=t, row=place.row + iy, col=place.col + ix, iy=iy, ix=ix,
            recipe=bytes(recipes[row]).hex(), scenes=tuple(linked[first[row] : first[row + 1]].tolist()),
        )  # fmt: skip


def listed(account: Account) -> Account:
    """The same account with its shards in memory: they can be read again."""
    return replace(account, shards=list(account.shards))
