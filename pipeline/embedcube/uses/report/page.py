"""The report as one HTML file: no script, no link that is followed by itself, nothing from a network."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from embedcube.campaign.price import duration, size
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.campaign.schema import Campaign
from embedcube.grid import unit_of
from embedcube.jobs.profile import Spent
from embedcube.timings import DEVICE
from embedcube.uses.report.gather import Gathered, gather
from embedcube.uses.report.pictures import legend, pictures
from embedcube.uses.report.terms import Terms, terms_of

REPORT = "report.html"
"""name of the file in the folder `report` of a run"""

_STATUS_IN_WORDS = {
    "valid": "valid",
    "valid_incomplete": "valid, though a planned scene was unreadable",
    "no_data": "no data",
    "masked": "masked (clouds and the like)",
    "failed": "failed (unreadable input)",
    "not_processed": "not processed",
}
_STEPS_IN_WORDS = {
    "wait": "wait for pixels (reading)",
    "copy": "copy to the device",
    "forward": "forward passes",
    "quantise": "vectors to stored numbers",
    "held": "wait for the writer",
}


def write_report(campaign: Campaign, run: RunDir, out: Path | None = None) -> Path:
    """Write the report of a campaign to `out`, by default `report/report.html` of its run folder; returns its path.

    Raises:
        RequestError: there is no plan, or it was made for another campaign.
    """
    path = out or run.report / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, rendered(gather(campaign, run), run).encode())
    return path


def rendered(found: Gathered, run: RunDir) -> str:
    """The page. All text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "duration": duration, "percent": _percent, "unit": unit_of}
    drawn = pictures(run.newest_cube) if found.cube else []
    return environment.get_template("report.html.jinja").render(
        found=found,
        headline=_headline(found),
        asked=yaml.safe_dump(found.campaign.what, sort_keys=False, width=90, allow_unicode=True).rstrip(),
        windows=found.campaign.all_windows,
        statuses=_STATUS_IN_WORDS,
        steps=[(step, _STEPS_IN_WORDS[step]) for step in DEVICE],
        shares=_shares(found.profile.all),
        pictures={layer: [one for one in drawn if one.layer == layer] for layer in found.campaign.layers},
        legend=legend(),
        terms=_terms(found),
    )


def _headline(found: Gathered) -> list[tuple[str, str]]:
    """The answer to "is it done, and right?": a word that says how good it is, and a sentence, for each part."""
    whole = found.done == found.plan.shards
    lines = [("good" if whole else "open", f"{found.done:,} of {found.plan.shards:,} shards are embedded.")]
    if not found.cube:
        lines.append(("open", "There is no cube yet."))
    elif found.verified is None:
        lines.append(("open", f"Cube {found.cube} was not verified yet."))
    elif found.verified.findings:
        lines.append(("bad", f"Cube {found.cube}: verify has {len(found.verified.findings)} findings."))
    else:
        remarks = f", with {len(found.verified.remarks)} remarks" if found.verified.remarks else ""
        lines.append(("good", f"Cube {found.cube} was verified: nothing was found wrong{remarks}."))
    scenes = sum(len(group.scenes) for group in found.quarantine)
    if scenes:
        lines.append(("open", f"{scenes:,} scene{'s' if scenes > 1 else ''} could not be used."))
    return lines


def _shares(spent: Spent) -> list[tuple[str, float]]:
    """Share of the time of the device's thread in each step, and of what is in none."""
    shares = [(step, spent.seconds.get(step, 0.0) / spent.wall_s if spent.wall_s else 0.0) for step in DEVICE]
    return [*shares, ("other", max(0.0, 1 - sum(share for _, share in shares)))]


def _terms(found: Gathered) -> dict[Terms, list[str]]:
    """The terms of all inputs and models, each with what it is used as."""
    archives: dict[str, str] = {}
    for name, planned in found.plan.layers.items():
        archives |= zip(found.campaign.layers[name].archives, planned.collections, strict=True)
    uses: dict[Terms, list[str]] = {}
    for archive, uri in archives.items():
        uses.setdefault(terms_of(uri), []).append(f"archive {archive}")
    for name, planned in found.plan.layers.items():
        for model in planned.model.split():
            uses.setdefault(terms_of(model), []).append(f"model of layer {name}")
    return uses


def _percent(share: Any) -> str:
    """A share as text; one that is tiny is not told as nothing."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
