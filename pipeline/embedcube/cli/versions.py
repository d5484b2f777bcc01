"""Verbs about versions of a cube: which there are, which is the current one; and runs that become one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from embedcube.cli import stages
from embedcube.progress import Say, shown

verbs = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@verbs.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, each of a part of the campaign.")],
    campaign_file: Annotated[
        Path, typer.Option("--campaign", metavar="CAMPAIGN.yaml", help="The file of the whole campaign.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make one cube of several runs.  Example: embedcube merge runs/2022 runs/2023 --campaign whole.yaml"""
    from dataclasses import replace

    from embedcube.campaign.plan import read_recipes
    from embedcube.campaign.resolve import resolve_campaign, write_resolved
    from embedcube.campaign.verdicts import Verdicts
    from embedcube.consolidate.adopt import in_words
    from embedcube.consolidate.reprocess import carry_verdicts
    from embedcube.uses import merge as merging

    say: Say = (lambda _: None) if as_json else print
    campaign, folder = resolve_campaign(campaign_file, mounted=False)
    parts = merging.open_parts(runs, folder)
    plan = merging.begin(campaign, folder, parts)
    write_resolved(campaign, folder)
    say(f"merge       {plan.shards} shards of {len(parts)} runs")
    plan = carry_verdicts(campaign, folder, plan, [part.base for part in parts])
    first_round = replace(plan, verdicts=Verdicts())
    recipes = {*read_recipes(folder, plan), *read_recipes(folder, first_round)}
    with shown("collect", "shards", say) as progress:
        adopted = merging.collect(folder, recipes, parts, progress)
    for line in in_words(adopted, "the runs"):
        say(f"            {line}")
    merging.refuse_missing(campaign, folder, plan, parts, adopted)
    made = stages.consolidate(campaign, folder, say)
    if as_json:
        print(json.dumps(made | {"runs": [str(path) for path in runs]}))
    else:
        say(f"cube        {made['cube']}; now: embedcube verify {campaign_file}")
