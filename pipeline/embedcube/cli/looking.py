"""Verbs for people who look: the report of a campaign, and a map of a cube in the browser."""

import json
from pathlib import Path
from typing import Annotated

import typer

verbs = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@verbs.command()
def report(
    campaign_file: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign file.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default report.html in `report` of the run folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a report of a campaign as one HTML file.  Example: embedcube report campaign.yaml"""
    from embedcube.campaign.resolve import open_submitted
    from embedcube.uses.report.page import write_report

    campaign, folder, changed = open_submitted(campaign_file)
    path = write_report(campaign, folder, out)
    if as_json:
        print(json.dumps({"report": str(path)}))
    else:
        print("\n".join([*([changed] if changed else []), f"wrote {path}"]))
