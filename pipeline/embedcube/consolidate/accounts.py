"""The two sides of a comparison (`campaign/reasons.py`), read from a run folder or from a cube."""

from collections.abc import Iterator

from embedcube.campaign.base import Base
from embedcube.campaign.inventory import scenes_as_planned
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
    return Account(campaign=campaign, plan=plan, scenes=scenes_as_planned(campaign, run, plan), shards=shards)


def asked_and_planned(run: RunDir) -> tuple[Campaign, Plan]:
    """The campaign of an earlier run folder, and the plan that was made for it.

    Raises:
        RequestError: one of them cannot be read, or the campaign has changed since the plan was made.
    """
    campaign, plan = load_campaign(run.campaign, mounted=False), read_any_plan(run)
    if plan.campaign != campaign.digest:
        raise RequestError(
            f"{run.plan}: made for another version of the campaign ({plan.campaign[:12]}, {run.campaign.name} now says "
            f"{campaign.digest[:12]}); run `embedcube plan` there"
        )
    return campaign, plan


def account_of_cube(cube: Cube) -> Account:
    """What a cube says of its shards.

    Raises:
        RequestError: it was made by an earlier version of embedcube, which did not say how shards were made.
    """
    said = rebuild(cube)
    return Account(campaign=said.campaign, plan=said, scenes=said.scenes, shards=_shards_of(cube, said))


def account_of_base(base: Base) -> Account:
    """What a base says of its shards: the plan of a run folder that is named itself, else its cube.

    Raises:
        RequestError: neither can be read.
    """
    if base.run is not None and base.has_parts:
        try:
            campaign, plan = asked_and_planned(base.run)
            return account_of_run(campaign, base.run, plan)
        except RequestError:
            if base.cube is None:
                raise
    if base.cube is None:
        raise RequestError(f"{base.path}: there is neither a plan nor a cube")
    return account_of_cube(Cube(base.cube))


def _shards_of(cube: Cube, said: Rebuilt) -> Iterator[Shard]:
    provenance = cube.provenance
    recipes = provenance.array("shard_recipe")
    first, linked = provenance.array("link_first"), provenance.array("link_scene")
    for place, row in provenance.places.items():
        yield said.shard(place, recipes[row], linked[first[row] : first[row + 1]])
