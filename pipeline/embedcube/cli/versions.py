"""Verbs about versions of a cube: which there are, which is the current one; and runs that become one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedcube.campaign.price import size
from embedcube.cli import stages
from embedcube.cli.options import AsJson, CampaignFile, teller
from embedcube.errors import RequestError
from embedcube.printable import printable
from embedcube.progress import shown

if TYPE_CHECKING:
    from embedcube.uses.versions import Pruned, Version

verbs = typer.Typer()


@verbs.command()
def versions(
    campaign_file: CampaignFile,
    action: Annotated[
        Literal["list", "compare", "promote", "prune"],
        typer.Argument(metavar="[list|compare A B|promote A|prune [A...]]", help="What to do."),
    ] = "list",
    names: Annotated[
        list[str] | None, typer.Argument(metavar="", help="Versions: the first digits of their names.")
    ] = None,
    unverified: Annotated[bool, typer.Option("--unverified", help="promote: do not verify the version.")] = False,
    parts: Annotated[bool, typer.Option("--parts", help="prune: also parts of shards that the plan has not.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="prune: only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """List, compare, promote or prune versions.  Example: embedcube versions campaign.yaml prune --dry-run"""
    from embedcube.campaign.resolve import open_submitted
    from embedcube.uses import versions as kept

    _, folder, _ = open_submitted(campaign_file)
    named = tuple(names or ())
    say = teller(as_json)
    most = {"list": 0, "compare": 2, "promote": 1}.get(action)
    if most is not None and len(named) != most:
        raise RequestError(f"versions {action} takes {most} version{'s'[: most != 1]}, not {len(named)}")
    if action == "list":
        found = kept.versions_of(folder)
        answer: dict[str, Any] = {"versions": [asdict(one) for one in found]}
        lines = _listed(found)
    elif action == "compare":
        answer = kept.compare(folder, *named)
        lines = [f"{layer}: {_counted(counts)}" for layer, counts in answer.items()]
    elif action == "promote":
        with shown("verify", "shards", say) as progress:
            version = kept.promote(folder, named[0], progress, unverified=unverified)
        answer, lines = {"current": version}, [f"{folder.newest_cube} is now version {version}"]
    else:
        pruned = kept.prune(folder, named, parts=parts, dry_run=dry_run)
        answer = asdict(pruned) | {"dry_run": dry_run}
        lines = _pruned(pruned, dry_run=dry_run)
    print(json.dumps(answer) if as_json else "\n".join(lines))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {label}" for label, count in counts.items())


def _listed(found: "Sequence[Version]") -> list[str]:
    lines = []
    for one in found:
        mark = "*" if one.current else " "
        shared = f", {size(one.freed_bytes)} of them in no other version" if one.freed_bytes < one.bytes else ""
        shards = "cannot be read" if one.damaged else f"{one.shards} shards"
        lines.append(f"{mark} {one.name}  {one.made}  {shards}, {size(one.bytes)}{shared}")
        if one.damaged:
            lines.append(f"    {printable(one.damaged)}")
        if one.why:
            lines.append(f"    against the version before: {_counted(one.why)}")
    return lines or ["no version yet"]


def _pruned(pruned: "Pruned", *, dry_run: bool) -> list[str]:
    done = "would be " if dry_run else ""
    what = [*(f"version {name}" for name in pruned.versions), *([f"{pruned.parts} parts"] if pruned.parts else [])]
    lines = [
        f"{', '.join(what) or 'nothing'} {done}removed: {pruned.freed.files} files, {size(pruned.freed.bytes)} freed; "
        f"{size(pruned.freed.all_bytes - pruned.freed.bytes)} are shared and stay"
    ]
    if pruned.newer:
        lines.append(f"newer than the current version, removed only if it is named: {', '.join(pruned.newer)}")
    return lines


@verbs.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, each of a part of the campaign.")],
    campaign_file: Annotated[
        Path, typer.Option("--campaign", metavar="CAMPAIGN.yaml", help="The file of the whole campaign.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make one cube of several runs.  Example: embedcube merge runs/2022 runs/2023 --campaign whole.yaml"""
    from embedcube.campaign.resolve import write_resolved
    from embedcube.cli.opening import resolve_to_plan
    from embedcube.consolidate.adopt import in_words
    from embedcube.consolidate.base_verdicts import carry_verdicts
    from embedcube.uses import merge as merging

    say = teller(as_json)
    campaign, folder = resolve_to_plan(campaign_file, say, mounted=False)
    parts = merging.open_parts(runs, folder)
    plan = merging.begin(campaign, folder, parts)
    write_resolved(campaign, folder)
    say(f"merge       {plan.shards} shards of {len(parts)} runs")
    plan = carry_verdicts(campaign, folder, plan, [part.base for part in parts])
    with shown("collect", "shards", say) as progress:
        adopted = merging.collect(folder, plan, parts, progress)
    for line in in_words(adopted, "the runs"):
        say(f"            {line}")
    merging.refuse_missing(campaign, folder, plan, parts, adopted)
    made = stages.consolidate(campaign, folder, say)
    if as_json:
        print(json.dumps(made | {"runs": [str(path) for path in runs]}))
    else:
        say(f"cube        {made['cube']}; now: embedcube verify {campaign_file}")
