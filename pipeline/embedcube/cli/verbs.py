"""The command line: one function for each verb. It parses, calls one function, prints, and exits with 0, 1, 2 or 75.

Heavy imports are inside the functions, so that `embedcube --help` answers at once.
"""

import faulthandler
import json
import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedcube.campaign.resolve import open_campaign, open_run, open_submitted, resolve_campaign, write_resolved
from embedcube.cli import decoding, exchanging, finding, history, looking, serving, stages, translating, using, versions
from embedcube.cli.opening import open_to_go_on, open_to_plan
from embedcube.cli.options import AsJson, CampaignFile, CubePath, LayerName, teller
from embedcube.cli.sections import Sections
from embedcube.cli.stopping import stopped_by_signals
from embedcube.errors import EmbedcubeError, RequestError, WorkError
from embedcube.printable import printable, shortened

app = typer.Typer(
    cls=Sections,
    help="Turn Earth observation archives into one Zarr cube of embeddings, with the provenance of every vector.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for more in (versions, using, finding, decoding, history, exchanging, looking, serving, translating):
    app.add_typer(more.verbs)

Ranks = Annotated[int | None, typer.Option(help="Number of processes, instead of how.ranks.", min=1)]
Digest = Annotated[
    Literal["weak", "full"],
    typer.Option(
        help="What is digested of a file without a checksum: its header and size (weak), or all bytes (full)."
    ),
]

_MESSAGE = 4000
"""most characters of a line of a message"""

_REFUSAL = 288
"""most characters of a message about a wrong request: with the name of the command less than 300"""


def main() -> None:
    """The command `embedcube`."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("embedcube").setLevel(logging.DEBUG)
    faulthandler.register(signal.SIGQUIT)
    try:
        with stopped_by_signals():
            app()
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(f"embedcube: {_in_words(error)}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, EmbedcubeError) else 1)


def _in_words(error: Exception) -> str:
    if isinstance(error, EmbedcubeError):
        return _shown(error)
    if isinstance(error, OSError):
        return f"{_shown(error)} (--debug shows where)"
    if isinstance(error, MemoryError):
        words = "ask for less, or take a machine with more; if what is read should be small, it may be damaged"
        return f"not enough memory ({_shown(error) or 'no more is said'}): {words}"
    return f"{type(error).__name__}: {_shown(error)}; this is a bug of embedcube or of a plugin, --debug shows where"


def _shown(error: Exception) -> str:
    """The message of an error: it may quote names and links of an archive. That of a wrong request is short."""
    text = "\n".join(printable(line, _MESSAGE) for line in str(error).splitlines())
    return shortened(text, _REFUSAL) if isinstance(error, RequestError) else text


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty or new folder.")],
    only: Annotated[
        Literal["sentinel2", "sentinel1", "era5"] | None, typer.Option(help="A smaller demo: one kind of data.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a small synthetic archive and its campaign file.  Example: embedcube demo demo"""
    from embedcube.testing.demo import write_demo

    try:
        campaign_file = write_demo(folder, only=only)
    except ValueError as error:
        raise RequestError(str(error)) from None
    _print({"campaign": str(campaign_file)}, as_json)
    teller(as_json)(f"wrote {campaign_file}; now: embedcube run {campaign_file}")


@app.command()
def run(
    campaign_file: CampaignFile,
    ranks: Ranks = None,
    until: Annotated[Literal["plan", "verify"], typer.Option(help="The last stage to run.")] = "verify",
    as_json: AsJson = False,
) -> None:
    """Run all stages here, each from where it stopped.  Example: embedcube run campaign.yaml --ranks 2"""
    say = teller(as_json)
    campaign, folder = open_to_plan(campaign_file, say, ranks)
    if until == "plan":
        _print(stages.prepare(campaign, folder, say), as_json)
        return
    made = stages.run_stages(campaign, folder, say)
    _print(made, as_json)
    stages.fail_on(made["findings"])
    say(f"cube        {made['cube']}")


@app.command()
def index(
    campaign_file: CampaignFile,
    digest: Digest = "weak",
    again: Annotated[bool, typer.Option("--again", help="Look also into the files that look unchanged.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the scenes of the archives: the inventory.  Example: embedcube index campaign.yaml"""
    campaign, folder = open_to_plan(campaign_file, teller(as_json))
    _print(stages.index(campaign, folder, teller(as_json), full_digests=digest == "full", again=again), as_json)


@app.command()
def fit(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """Fit or load the weights of each layer.  Example: embedcube fit campaign.yaml"""
    campaign, folder = open_to_plan(campaign_file, teller(as_json))
    _print(stages.fit(campaign, folder, teller(as_json)), as_json)


@app.command()
def plan(campaign_file: CampaignFile, ranks: Ranks = None, as_json: AsJson = False) -> None:
    """Divide the work into shards and tasks, with a price.  Example: embedcube plan campaign.yaml"""
    campaign, folder = open_to_plan(campaign_file, teller(as_json), ranks)
    _print(stages.plan(campaign, folder, teller(as_json)), as_json)


@app.command()
def embed(
    campaign_file: CampaignFile,
    task: Annotated[int | None, typer.Option(help="Number of the only task to run.", min=0)] = None,
    ranks: Ranks = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Embed also the shards whose scenes could not be read before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed the shards that have no record.  Example: embedcube embed campaign.yaml --ranks 3"""
    campaign, folder = stages.open_to_embed(campaign_file, ranks, task, retry_quarantined=retry_quarantined)
    _print(stages.embed(campaign, folder, teller(as_json), task), as_json)


@app.command()
def consolidate(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """Make the cube from the embedded shards.  Example: embedcube consolidate campaign.yaml"""
    campaign, folder = open_to_go_on(campaign_file, uses_plugins=False)
    _print(stages.consolidate(campaign, folder, teller(as_json)), as_json)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml|CUBE.zarr", help="A campaign file or a cube.")],
    recompute: Annotated[int, typer.Option(help="Shards of each layer and zone to embed again.", min=0)] = 1,
    seed: Annotated[int | None, typer.Option(help="Draw the same shards as the run that printed it.", min=0)] = None,
    seal: Annotated[str | None, typer.Option(help="Digest that was kept of this cube: compare it.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Remarks count as findings (exit 1).")] = False,
    as_json: AsJson = False,
) -> None:
    """Check every digest and claim of a cube.  Example: embedcube verify campaign.yaml"""
    say = teller(as_json)
    if path.is_dir():
        lines = stages.verify_alone(path, say, seal)
    elif path.suffix == ".zarr":
        raise RequestError(f"{path}: there is no such cube; a run prints where its cube is")
    else:
        campaign, folder = open_campaign(path)
        lines = stages.verify(campaign, folder, say, recompute=recompute, seed=seed, seal=seal)
    _print(lines, as_json)
    stages.fail_on([*lines["findings"], *(lines["remarks"] if strict else [])])


@app.command()
def status(
    campaign_file: CampaignFile,
    watch: Annotated[
        bool, typer.Option("--watch", help="Repeat until the cube is verified (exit 0), or nothing works on it (1).")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show how each rank spent its time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is done, how fast, and the jobs.  Example: embedcube status campaign.yaml --watch"""
    from embedcube.jobs.profile import profile as profile_of
    from embedcube.jobs.profile import table
    from embedcube.jobs.status import describe, watched

    campaign, folder, changed = open_submitted(campaign_file)
    if profile:
        spent = profile_of(campaign, folder)
        _print(asdict(spent) | {"bottleneck": spent.all.bottleneck}, as_json)
        teller(as_json)("\n".join(table(spent)))
        return
    for now in watched(campaign, folder, campaign_file, note=changed, again=watch):
        if not as_json:
            print("\n".join(describe(now)), flush=True)
    _print(asdict(now), as_json)
    if watch and not now.verified:
        raise WorkError(f"nothing is queued or running, and the cube of the plan is not verified: {now.next}")


@app.command()
def submit(
    campaign_file: CampaignFile,
    site: Annotated[Path | None, typer.Option(help="File that describes the cluster, instead of how.site.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts and submit nothing.")] = False,
    pilot: Annotated[
        int | None, typer.Option(help="Embed only this many shards, and estimate the cost of all.", min=1)
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Used by the job of consolidation: resubmit a limited number of times.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit what is left as Slurm jobs.  Example: embedcube submit campaign.yaml"""
    from embedcube.campaign.site import load_site
    from embedcube.jobs import submit as submission
    from embedcube.jobs.lock import only_submit
    from embedcube.jobs.slurm import refuse_while_queued

    campaign, folder = resolve_campaign(campaign_file, executor="slurm", site=site)
    say = teller(as_json)
    if dry_run:
        print(submission.dry_run(campaign, folder))
        return
    with only_submit(folder):
        # before anything is written: jobs in the queue read the campaign and the plan of the run folder
        refuse_while_queued(folder)
        write_resolved(campaign, folder)
        if not load_site(campaign).prepare_in_job and not submission.planned(campaign, folder):
            stages.prepare(campaign, folder, say)
        if pilot is not None:
            _print(stages.pilot(campaign, folder, say, pilot), as_json)
            return
        submitted = submission.submit(campaign, folder, again=again)
    for stage, ids in submitted.jobs.items():
        say(f"{stage:<12}job {', '.join(ids)}" + (f", {len(submitted.tasks)} tasks" if stage == "embed" else ""))
    _print(asdict(submitted), as_json)


@app.command()
def cancel(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """Cancel the Slurm jobs; finished shards stay.  Example: embedcube cancel campaign.yaml"""
    from embedcube.jobs.submit import cancel as cancel_jobs
    from embedcube.jobs.submit import describe_cancelled

    _, folder, _ = open_submitted(campaign_file)
    cancelled = cancel_jobs(folder)
    teller(as_json)(describe_cancelled(cancelled, folder))
    _print({"cancelled": cancelled.jobs}, as_json)


@app.command()
def doctor(
    campaign_file: Annotated[
        Path | None, typer.Argument(metavar="[CAMPAIGN.yaml]", help="The campaign file; not needed with --site.")
    ] = None,
    site: Annotated[Path | None, typer.Option(help="File that describes the cluster, instead of how.site.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Check this machine, not a compute node of the site.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a node can run the campaign.  Example: embedcube doctor campaign.yaml --site levante.yaml"""
    from embedcube.campaign.site import load_site, read_site
    from embedcube.jobs.doctor import examine, examine_node, examine_site

    if campaign_file is not None:
        campaign, folder = resolve_campaign(
            campaign_file, executor="slurm" if site else None, site=site, uses_plugins=False, mounted=False
        )
        if campaign.how.executor == "slurm" and not here:
            words = (str(campaign_file.absolute()), "--site", str(campaign.how.site), "--here", "--json")
            examined = examine_node(load_site(campaign), words, campaign, folder)
        else:
            examined = examine(campaign, folder)
    elif site is None:
        raise RequestError("doctor needs a campaign file, or a site: embedcube doctor --site levante.yaml")
    else:
        described, options = read_site(site), ("--site", str(site.absolute()), "--here", "--json")
        examined = examine_site(described) if here else examine_node(described, options, None, None)
    _print(asdict(examined), as_json)
    stages.say_examined(examined, teller(as_json))


@app.command()
def explain(
    cube: CubePath,
    lon: Annotated[float | None, typer.Option(help="Longitude in degrees.")] = None,
    lat: Annotated[float | None, typer.Option(help="Latitude in degrees.")] = None,
    moment: Annotated[
        str | None, typer.Option("--time", help="A day, month, year or moment; needed where there are several windows.")
    ] = None,
    layer: LayerName = None,
    sample: Annotated[str | None, typer.Option(help="Instead of a place: the id of a sample of a list.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what made a vector.  Example: embedcube explain cube.zarr --lon 7.6 --lat 50.87 --time 2023-06-15"""
    from embedcube.cube.reader import Cube

    if (sample is None) == (lon is None and lat is None):
        raise RequestError("explain a place, --lon 7.6 --lat 50.87, or a sample of a list, --sample ID: one of the two")
    if sample is None and (lon is None or lat is None):
        raise RequestError("a place is --lon and --lat, for example --lon 7.6 --lat 50.87")
    answer = Cube(cube).explain(lon=lon, lat=lat, time=moment, layer=layer, sample=sample)
    if as_json:
        print(json.dumps(answer))
        return
    import yaml

    print(yaml.safe_dump(answer, sort_keys=False, width=110, allow_unicode=True).rstrip())


@app.command()
def models(as_json: AsJson = False) -> None:
    """List models: their inputs, cells and vectors.  Example: embedcube models"""
    from embedcube.cli.installed import models_installed

    _print_lines(*models_installed(), as_json)


@app.command()
def sources(as_json: AsJson = False) -> None:
    """List sources, and the options of each.  Example: embedcube sources"""
    from embedcube.cli.installed import sources_installed

    _print_lines(*sources_installed(), as_json)


@app.command()
def weights(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """Download published weights (needs internet).  Example: embedcube weights campaign.yaml"""
    from embedcube.prepare.fit import fetch

    fetched = fetch(*open_run(campaign_file))
    for layer, digest in fetched.items():
        teller(as_json)(f"{layer}: to accept only this file, write in the layer: weights_sha256: {digest}")
    _print({"fetched": fetched}, as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a campaign file.  Example: embedcube schema > campaign.schema.json"""
    from embedcube.campaign.plugins import campaign_schema

    print(json.dumps(campaign_schema(), indent=2))


def _print_lines(answer: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(answer) if as_json else "\n".join(lines))


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer))
