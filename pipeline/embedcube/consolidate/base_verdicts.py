"""Verdicts on scenes that a base has reached: those that the new run would reach too are taken from the beginning.

A scene that one shard finds broken is out for all. So a scene is out from the beginning only if the shard that found
it broken, whichever that was, is a shard of the new plan too: then a run from nothing finds the same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedcube.campaign.base import Base
from embedcube.campaign.parts import Quarantined
from embedcube.campaign.plan import Plan, read_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.verdicts import Verdict, write_verdicts
from embedcube.consolidate.accounts import UNREADABLE, account_of_base
from embedcube.consolidate.offers import broken_in
from embedcube.workers.rounds import new_verdicts, next_round

_Key = tuple[str, str, str]
"""archive, id and digest of a scene"""


def carry_verdicts(campaign: Campaign, run: RunDir, plan: Plan, bases: Sequence[Base]) -> Plan:
    """Write the verdicts of the bases that hold for the plan, and return the plan with them.

    The shards of these scenes then have the recipes that the bases have them with.
    """
    judged = with_base_verdicts(campaign, run, plan, bases)
    if judged is not plan:
        write_verdicts(run, plan.digests, judged.verdicts)
    return judged


def with_base_verdicts(campaign: Campaign, run: RunDir, plan: Plan, bases: Sequence[Base]) -> Plan:
    """The plan with the verdicts of bases that it will come to; itself where there are none to add."""
    if plan.verdicts.scenes or campaign.how.retry_quarantined:
        return plan
    broken, fed = _broken(bases)
    found = new_verdicts(campaign, run, plan, broken) if broken else {}
    while found:
        trial = replace(plan, verdicts=next_round(plan, found))
        recipes = set(read_recipes(run, trial))
        holding = {row: one for row, one in found.items() if fed[_key(one)] <= recipes}
        if len(holding) == len(found):
            return trial
        found = holding
    return plan


def _key(one: Verdict | Quarantined) -> _Key:
    return one.archive, one.scene, one.scene_digest


def _broken(bases: Sequence[Base]) -> tuple[list[Quarantined], Mapping[_Key, set[str]]]:
    """The scenes that are out of bases, and for each the recipes of the shards that had planned it."""
    broken: list[Quarantined] = []
    fed: dict[_Key, set[str]] = defaultdict(set)
    for base in bases:
        fed_here: dict[_Key, set[str]] = defaultdict(set)
        try:
            if not (of_base := broken_in(base)):
                continue
            account = account_of_base(base)
            out = {row: _key(one) for row, one in account.plan.verdicts.scenes.items()}
            for shard in account.shards:
                for row in out.keys() & set(shard.scenes):
                    fed_here[out[row]].add(shard.recipe)
        except UNREADABLE:
            continue  # damaged, or of another version; what it left out is found again
        for key, recipes in fed_here.items():
            fed[key] |= recipes
        broken += [one for one in of_base if _key(one) in fed]
    return broken, fed
