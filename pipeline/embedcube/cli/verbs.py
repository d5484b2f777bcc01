"""The command line: one verb per stage. Parse, call one function, print, exit with 0, 1, 2 or 75.

Heavy imports are inside the verbs: `embedcube --help` must answer at once.
"""

import faulthandler
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedcube.campaign.resolve import open_campaign, open_run, resolve_campaign, write_resolved
from embedcube.cli import stages
from embedcube.errors import EmbedcubeError, RequestError, StartAgain
from embedcube.progress import Say, shown

app = typer.Typer(
    help="Earth observation archives -> one Zarr cube of embeddings, with the provenance of every vector.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CampaignFile = Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign file.")]
CubePath = Annotated[Path, typer.Argument(metavar="CUBE.zarr", help="A cube.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Ranks = Annotated[int | None, typer.Option(help="Processes, instead of how.ranks.", min=1)]
Digest = Annotated[Literal["weak", "full"], typer.Option(help="Of files without a checksum: header and size, or all.")]


def main() -> None:
    """The command `embedcube`."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, _stop)
    faulthandler.register(signal.SIGQUIT)
    try:
        app()
    except EmbedcubeError as error:
        if debug:
            raise
        print(f"embedcube: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        print(f"embedcube: {error} (--debug shows where)", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        words = f"{type(error).__name__}: {error}"
        print(f"embedcube: {words}; a fault of embedcube or of a plugin, --debug shows where", file=sys.stderr)
        sys.exit(1)


def _stop(number: int, _: object) -> None:
    raise StartAgain(f"stopped by signal {number}; start the same command again, it goes on where it stopped")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty or new folder.")], as_json: AsJson = False
) -> None:
    """Write a small synthetic archive and its campaign.  Example: embedcube demo demo"""
    from embedcube.testing.demo import write_demo

    try:
        campaign_file = write_demo(folder)
    except ValueError as error:
        raise RequestError(str(error)) from None
    _print({"campaign": str(campaign_file)}, as_json)
    _teller(as_json)(f"wrote {campaign_file}; now: embedcube run {campaign_file}")


@app.command()
def run(
    campaign_file: CampaignFile,
    ranks: Ranks = None,
    until: Annotated[Literal["plan", "verify"], typer.Option(help="The last stage.")] = "verify",
    as_json: AsJson = False,
) -> None:
    """All stages on this machine, each resumed where it stopped.  Example: embedcube run campaign.yaml --ranks 2"""
    campaign, folder = open_run(campaign_file, ranks)
    say = _teller(as_json)
    if until == "plan":
        _print(stages.prepare(campaign, folder, say), as_json)
        return
    made = stages.run_stages(campaign, folder, say)
    _print(made, as_json)
    stages.fail_on(made["findings"])
    say(f"cube        {made['cube']}")


@app.command()
def index(campaign_file: CampaignFile, digest: Digest = "weak", as_json: AsJson = False) -> None:
    """Archive -> inventory.  Example: embedcube index campaign.yaml"""
    campaign, folder = open_run(campaign_file)
    _print(stages.index(campaign, folder, _teller(as_json), full_digests=digest == "full"), as_json)


@app.command()
def fit(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """A sample -> frozen weights.  Example: embedcube fit campaign.yaml"""
    campaign, folder = open_run(campaign_file)
    _print(stages.fit(campaign, folder, _teller(as_json)), as_json)


@app.command()
def plan(campaign_file: CampaignFile, ranks: Ranks = None, as_json: AsJson = False) -> None:
    """Inventory -> shards, recipes, tasks and the price.  Example: embedcube plan campaign.yaml"""
    campaign, folder = open_run(campaign_file, ranks)
    _print(stages.plan(campaign, folder, _teller(as_json)), as_json)


@app.command()
def embed(
    campaign_file: CampaignFile,
    task: Annotated[int | None, typer.Option(help="Only this task of the plan.", min=0)] = None,
    ranks: Ranks = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Also shards of unreadable scenes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Shards -> parts; only those without a record.  Example: embedcube embed campaign.yaml --ranks 3"""
    campaign, folder = open_run(campaign_file, ranks, retry_quarantined=retry_quarantined)
    _print(stages.embed(campaign, folder, _teller(as_json), task), as_json)


@app.command()
def consolidate(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """Parts -> cube.  Example: embedcube consolidate campaign.yaml"""
    campaign, folder = open_run(campaign_file, uses_plugins=False)
    _print(stages.consolidate(campaign, folder, _teller(as_json)), as_json)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml|CUBE.zarr", help="A campaign file, or a cube alone.")],
    recompute: Annotated[int, typer.Option(help="Shards of each layer to embed again.", min=0)] = 1,
    as_json: AsJson = False,
) -> None:
    """Check that the cube says what was promised.  Example: embedcube verify campaign.yaml"""
    say = _teller(as_json)
    if path.is_dir():
        from embedcube.consolidate.verify import verify_cube

        with shown("verify", "shards", say) as progress:
            findings = [str(finding) for finding in verify_cube(path, progress)]
        stages.say_findings(findings, say)
    else:
        campaign, folder = open_campaign(path)
        findings = stages.verify(campaign, folder, say, recompute=recompute)
    _print({"findings": findings}, as_json)
    stages.fail_on(findings)


@app.command()
def status(
    campaign_file: CampaignFile,
    watch: Annotated[bool, typer.Option(help="Again and again until all is done: after 2 s, with jobs 30 s.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Where the time of each rank went.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is done, how fast, what is left.  Example: embedcube status campaign.yaml --watch"""
    from embedcube.jobs.profile import profile as profile_of
    from embedcube.jobs.profile import table
    from embedcube.jobs.status import describe
    from embedcube.jobs.status import status as status_of

    campaign, folder = open_campaign(campaign_file)
    if profile:
        spent = profile_of(campaign, folder)
        _print(asdict(spent) | {"bottleneck": spent.all.bottleneck}, as_json)
        _teller(as_json)("\n".join(table(spent)))
        return
    while True:
        now = status_of(campaign, folder)
        finished = not watch or 0 < now.shards == now.done
        if as_json:
            _print(asdict(now), finished)
        else:
            print("\n".join(describe(now)))
        if finished:
            return
        # a queue that a thousand people watch is not asked every moment
        time.sleep(30 if now.jobs else 2)


@app.command()
def submit(
    campaign_file: CampaignFile,
    site: Annotated[Path | None, typer.Option(help="The file of the batch system, instead of how.site.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts, submit nothing.")] = False,
    pilot: Annotated[int | None, typer.Option(help="So many shards first, and what all will cost.", min=1)] = None,
    again: Annotated[bool, typer.Option("--again", help="As consolidation does it: bounded.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is left of a campaign, as a chain of Slurm jobs.  Example: embedcube submit campaign.yaml"""
    from embedcube.campaign.site import load_site
    from embedcube.jobs import submit as submission

    campaign, folder = resolve_campaign(campaign_file, executor="slurm", site=site)
    say = _teller(as_json)
    if dry_run:
        print(submission.dry_run(campaign, folder))
        return
    # jobs that wait or run read the campaign and the plan that are there: first of all
    submission.refuse_while_queued(folder)
    write_resolved(campaign, folder)
    if not load_site(campaign).prepare_in_job and not submission.planned(campaign, folder):
        stages.prepare(campaign, folder, say)
    if pilot is not None:
        _print(stages.pilot(campaign, folder, say, pilot), as_json)
        return
    asked = submission.submit(campaign, folder, again=again)
    for stage, ids in asked.jobs.items():
        say(f"{stage:<12}job {', '.join(ids)}" + (f", {len(asked.tasks)} tasks" if stage == "embed" else ""))
    _print(asdict(asked), as_json)


@app.command()
def cancel(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """End the jobs of a campaign; what is recorded stays.  Example: embedcube cancel campaign.yaml"""
    from embedcube.jobs.submit import cancel as cancel_jobs
    from embedcube.jobs.submit import describe_cancelled

    _, folder = open_campaign(campaign_file)
    cancelled = cancel_jobs(folder)
    _teller(as_json)(describe_cancelled(cancelled, folder))
    _print({"cancelled": cancelled.jobs}, as_json)


@app.command()
def doctor(
    campaign_file: CampaignFile,
    site: Annotated[Path | None, typer.Option(help="The file of the batch system, instead of how.site.")] = None,
    here: Annotated[bool, typer.Option("--here", help="This machine, also where there is a site.")] = False,
    as_json: AsJson = False,
) -> None:
    """Whether a compute node can run a campaign.  Example: embedcube doctor campaign.yaml --site levante.yaml"""
    from embedcube.jobs import doctor as look

    campaign, folder = resolve_campaign(campaign_file, executor="slurm" if site else None, site=site)
    on_node = campaign.how.executor == "slurm" and not here
    found = look.examine_node(campaign, folder, campaign_file) if on_node else look.examine(campaign, folder)
    _print(asdict(found), as_json)
    stages.say_examined(found, _teller(as_json))


@app.command()
def explain(
    cube: CubePath,
    lon: Annotated[float, typer.Option(help="Longitude in degrees.")],
    lat: Annotated[float, typer.Option(help="Latitude in degrees.")],
    moment: Annotated[
        str | None, typer.Option("--time", help="A day, month, year or moment; needed where there are several windows.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Where the cube has several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what made a vector.  Example: embedcube explain cube.zarr --lon 7.6 --lat 50.87 --time 2023-06-15"""
    from embedcube.cube.reader import Cube

    opened = Cube(cube)
    answer = opened.explain(opened.cell_at(lon, lat, moment, layer))
    if as_json:
        print(json.dumps(answer))
        return
    import yaml

    print(yaml.safe_dump(answer, sort_keys=False, width=110, allow_unicode=True).rstrip())


@app.command()
def preview(
    cube: CubePath,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; by default beside the cube.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pictures of the principal components (PNG, GeoTIFF).  Example: embedcube preview cube.zarr"""
    from embedcube.cube.preview import preview as draw

    files = draw(cube, out or cube.absolute().parent / "report")
    _print({"files": [str(file) for file in files]}, as_json)
    if not as_json:
        print("\n".join(f"wrote {file}" for file in files))


@app.command()
def models(as_json: AsJson = False) -> None:
    """What backbones and models take and give.  Example: embedcube models"""
    from embedcube.campaign.plugins import names, plugin

    cards = [(name, asdict(card)) for name in names("backbones") for card in plugin("backbones", name).cards()]
    _print({"models": [{"backbone": name} | card for name, card in cards]}, as_json)
    if not as_json:
        for name, card in cards:
            print(f"{name} {card.pop('model')}".rstrip())
            hub = card.pop("hub")
            for what, said in (card | ({"weights": "/".join(hub)} if hub else {})).items():
                print(f"    {what:<15}{said}")


@app.command()
def weights(campaign_file: CampaignFile, as_json: AsJson = False) -> None:
    """Fetch published weights, on a node with internet.  Example: embedcube weights campaign.yaml"""
    from embedcube.prepare.fit import fetch

    fetched = fetch(*open_run(campaign_file))
    for layer, digest in fetched.items():
        _teller(as_json)(f"{layer}: pin it with weights_sha256: {digest}")
    _print({"fetched": fetched}, as_json)


@app.command()
def schema() -> None:
    """The JSON Schema of a campaign file, for editors.  Example: embedcube schema > campaign.schema.json"""
    from embedcube.campaign.schema import Campaign

    print(json.dumps(Campaign.model_json_schema(), indent=2))


def _teller(as_json: bool) -> Say:
    def silent(_: str) -> None:
        return

    return silent if as_json else print


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer))
