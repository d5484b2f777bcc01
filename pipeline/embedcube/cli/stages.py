"""The stages as the command line runs them: each with its progress bar and the lines that it prints."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcube.errors import RequestError, WorkError
from embedcube.progress import Say, shown

if TYPE_CHECKING:
    from embedcube.campaign.base import Base
    from embedcube.campaign.plan import Plan
    from embedcube.campaign.run_folder import RunDir
    from embedcube.campaign.schema import Campaign
    from embedcube.consolidate.findings import Finding
    from embedcube.cube.reader import Cube
    from embedcube.jobs.doctor import Examined


_NAMED = 4
"""Number of windows without any scene that are printed."""


def run(campaign: "Campaign", *, ranks: int | None = None, say: Say = print) -> "Cube":
    """Run all stages on this machine, each resumed where it stopped, and open the cube.

    `ranks` processes are used instead of how.ranks; `say` prints the progress.

    Raises:
        RequestError: the campaign cannot be run as it is; nothing was started.
        WorkError: a stage failed, or `verify` found something wrong.
    """
    from embedcube.campaign.resolve import resolved, write_resolved
    from embedcube.cube.reader import Cube

    campaign, folder = resolved(campaign, ranks)
    write_resolved(campaign, folder)
    made = run_stages(campaign, folder, say)
    fail_on(made["findings"])
    return Cube(made["cube"])


def run_stages(campaign: "Campaign", folder: "RunDir", say: Say) -> dict[str, Any]:
    """Index, fit, plan, embed, consolidate, verify; the answer holds the findings of `verify`."""
    prepare(campaign, folder, say)
    embed(campaign, folder, say, None)
    made = consolidate(campaign, folder, say)
    return made | verify(campaign, folder, say, recompute=1, seed=None)


def prepare(campaign: "Campaign", folder: "RunDir", say: Say) -> dict[str, Any]:
    """Index, fit, plan: all that is decided before anything is embedded."""
    index_once(campaign, folder, say)
    fit(campaign, folder, say)
    return plan(campaign, folder, say)


def index_once(campaign: "Campaign", folder: "RunDir", say: Say) -> None:
    """Index the archives if there is no inventory yet, or if the windows or the region have changed since."""
    from embedcube.campaign.inventory import made_for, read_inventory

    try:
        scenes = read_inventory(campaign, folder)
    except RequestError:
        from embedcube.consolidate.reprocess import base_of, has_full_digests

        index(campaign, folder, say, full_digests=has_full_digests(base_of(campaign, folder)))
        return
    if made_for(campaign, folder):
        say(f"index       {len(scenes)} scenes, from an earlier run; `embedcube index` looks for new ones")
        return
    say("index       again, as the windows or the region have changed")
    # with digests of another kind, all scenes would count as changed, and every shard would be embedded again
    index(campaign, folder, say, full_digests=not any(scene.weak or scene.declared for scene in scenes))


def index(
    campaign: "Campaign", folder: "RunDir", say: Say, *, full_digests: bool, again: bool = False
) -> dict[str, Any]:
    """Index the archives; the answer counts scenes, and names those that cannot be used."""
    from embedcube.campaign.inventory import unplaced_scenes
    from embedcube.campaign.parts import over_budget
    from embedcube.prepare.index import index as index_archives

    with shown("index", "scenes", say) as progress:
        scenes = index_archives(campaign, folder, progress, full_digests=full_digests, again=again)
    bad = {scene.id: scene.verdict for scene in scenes if scene.verdict and not scene.superseded_by}
    weak, declared = sum(scene.weak for scene in scenes), sum(scene.declared for scene in scenes)
    unchecked = f", {declared} with the catalogue's checksums (`--digest full` compares them)" if declared else ""
    say(f"            {len(bad)} unusable, {weak} with weak digests{unchecked}")
    for scene, verdict in bad.items():
        say(f"            {scene}: {verdict}")
    counted = [scene for scene in scenes if scene.placed and not scene.superseded_by]
    over = over_budget(campaign, counted, (), unplaced_scenes(campaign, folder)) if bad else ""
    if over:
        say(f"            if the plan needs them all, nothing will be embedded: {over}")
    return {"scenes": len(scenes), "unusable": bad, "weak": weak, "over_budget": over}


def fit(campaign: "Campaign", folder: "RunDir", say: Say) -> dict[str, Any]:
    """Fit or load the weights of each layer; the answer has their digests."""
    from embedcube.prepare.fit import fit as fit_layers

    with shown("fit", "chips", say) as progress:
        layers = fit_layers(campaign, folder, progress)
    for layer in layers:
        say(f"            {layer.layer}: weights {layer.digest[:12]}{'' if layer.fresh else ', from an earlier run'}")
        if layer.passed_over:
            count = len(layer.passed_over)
            say(f"            {layer.layer}: fitted without {count} scene{'s'[: count > 1]} that could not be read")
    # each once, whatever the number of layers that use it
    for scene, reason in {scene: reason for layer in layers for scene, reason in layer.passed_over.items()}.items():
        say(f"            {scene}: {reason}")
    passed_over = {layer.layer: layer.passed_over for layer in layers if layer.passed_over}
    return {"weights": {layer.layer: layer.digest for layer in layers}, "fitted_without": passed_over}


def plan(campaign: "Campaign", folder: "RunDir", say: Say) -> dict[str, Any]:
    """Make the plan, and print its price and the windows without any scene."""
    from embedcube.campaign.price import describe
    from embedcube.consolidate.changes import table
    from embedcube.consolidate.reprocess import base_of, changes_since, reference_of, remarks
    from embedcube.prepare.plan import plan as make_plan
    from embedcube.workers.rounds import unusable_in_words

    if compiled := [name for name, layer in campaign.layers.items() if layer.compile]:
        say(f"plan        compiling {', '.join(compiled)} unless that is done already: about a minute for each layer")
    base = base_of(campaign, folder)
    # before the plan is made: it is compared with what there was
    reference = reference_of(campaign, folder, base)
    made = make_plan(campaign, folder)
    for i, line in enumerate(describe(made.price)):
        say(f"{'plan' if i == 0 else '':<12}{line}")
    windows = campaign.all_windows
    for name, layer in made.layers.items():
        if layer.empty:
            named = ", ".join(str(windows[t]) for t in layer.empty[:_NAMED])
            more = f" and {len(layer.empty) - _NAMED} more" if len(layer.empty) > _NAMED else ""
            say(
                f"            layers.{name}: no scene in {len(layer.empty)} of {len(windows)} windows: {named}{more}; "
                "if the archive has got some since, run `embedcube index`"
            )
        if layer.reading:
            say(f"            layers.{name}: {layer.reading}")
        for t in list(layer.gaps)[:_NAMED]:
            lacking = layer.gaps[t]
            more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
            say(f"            layers.{name}: window {t}: {', '.join(lacking[:_NAMED])}{more}")
        for zone, lines in layer.resampled.items():
            place = name if len(layer.zones) == 1 else f"{name}, {zone}"
            for line in lines:
                say(f"            layers.{place}: {line}")
        if len(layer.gaps) > _NAMED:
            say(f"            layers.{name}: {len(layer.gaps)} of {len(windows)} windows lack a part of an archive")
    for line in remarks(campaign, folder, made, reference):
        say(f"            {line}")
    if base is not None:
        made = adopt(campaign, folder, made, [base], say)
    rows = [] if reference is None else changes_since(reference, campaign, folder, made)
    for line in [f"against {reference.name}:", *table(rows, campaign.how.ranks)] if reference else []:
        say(f"            {line}")
    if over := unusable_in_words(campaign, folder, made):
        say(f"            nothing will be embedded: {over}")
    proposal = _propose(campaign, made, say)
    return made.summary | {"over_budget": over, "changes": [row.document() for row in rows], "proposal": proposal}


def _propose(campaign: "Campaign", made: "Plan", say: Say) -> dict[str, Any] | None:
    """Print what is saved by moving the cube, and the tasks and nodes that suit the site; refuse what cannot work."""
    from embedcube.campaign.price import to_move

    for line in to_move(made.price):
        say(f"            {line}")
    if campaign.how.executor != "slurm":
        return None
    from embedcube.campaign.site import load_site
    from embedcube.jobs.submit import refuse_at_site
    from embedcube.prepare.proposal import in_words, propose

    site = load_site(campaign)
    proposal = propose(campaign, made, site)
    for line in in_words(proposal, campaign, made) if proposal else []:
        say(f"            {line}")
    refuse_at_site(made.price, campaign, site)
    return asdict(proposal) if proposal else None


def adopt(campaign: "Campaign", folder: "RunDir", made: "Plan", bases: "list[Base]", say: Say) -> "Plan":
    """Take over what earlier runs have of the plan; returns the plan, without the scenes that they found broken."""
    from embedcube.consolidate.adopt import in_words
    from embedcube.consolidate.base_verdicts import carry_verdicts
    from embedcube.consolidate.reprocess import adopt_from

    made = carry_verdicts(campaign, folder, made, bases)
    for base in bases:
        with shown("base", "shards", say) as progress:
            adopted = adopt_from(base, folder, made, progress)
        for line in in_words(adopted, base.path):
            say(f"            {line}")
    return made


def open_to_embed(
    campaign_file: Path, ranks: int | None, task: int | None, *, retry_quarantined: bool
) -> "tuple[Campaign, RunDir]":
    """The campaign and its run folder, for `embed`.

    Raises:
        RequestError: `retry_quarantined` for a single task: a scene is out, or not, for the shards of all tasks.
    """
    from embedcube.cli.opening import open_to_go_on

    if task is not None and retry_quarantined:
        raise RequestError(
            f"--retry-quarantined with --task {task}: a scene is out for all tasks or for none; leave out --task "
            "(only shards that lack a scene are embedded again), or write how.retry_quarantined: true and "
            "`embedcube submit`"
        )
    return open_to_go_on(campaign_file, ranks, retry_quarantined=retry_quarantined)


def embed(campaign: "Campaign", folder: "RunDir", say: Say, task: int | None) -> dict[str, Any]:
    """Embed the shards of one task here, or of all tasks with the campaign's executor.

    Of all tasks in rounds, until no shard finds a scene broken that others have used (`workers/rounds.py`).
    `how.error_budget` limits the unreadable scenes of the whole campaign, so it is not checked for a single task.
    """
    from embedcube.campaign.plan import read_plan, read_recipes, tasks_undone
    from embedcube.campaign.recorded import recorded_recipes
    from embedcube.campaign.verdicts import forget_verdicts
    from embedcube.workers import rounds
    from embedcube.workers.starting import servers_kept

    if task is not None:
        return _embed_task(campaign, folder, say, task)
    if campaign.how.retry_quarantined:
        forget_verdicts(folder)
    made = read_plan(campaign, folder)
    rounds.refuse_unusable(campaign, folder, made)
    tasks, settled = tuple(range(made.tasks)), False
    # one import of torch is enough for the ranks of all tasks and rounds
    with servers_kept():
        while not settled:
            if tasks:
                _run_tasks(campaign, folder, say, tasks, campaign.how.executor)
            # another process may have begun the next round meanwhile
            made = read_plan(campaign, folder)
            recipes = read_recipes(folder, made)
            records = rounds.recorded(folder, recipes)
            if records.count == len(set(recipes)):
                rounds.refuse_unusable(campaign, folder, made, records.unusable)
                if found := rounds.new_verdicts(campaign, folder, made, records.broken):
                    rounds.begin_next_round(folder, made, found)
                    made = read_plan(campaign, folder)
                    again = f"round {made.verdicts.round} embeds again what it fed"
                    say(f"            {rounds.named(found)}: out for all; {again}")
                settled = not found
            tasks = tasks_undone(folder, made, recorded_recipes(folder))
    bad = {one.scene: one.reason for one in records.unusable}
    for scene, reason in sorted(bad.items()):
        say(f"            quarantined {scene}: {reason}")
    for line in rounds.not_held_in_words(campaign, folder, made, records):
        say(f"            {line}")
    return {"shards": len(recipes), "quarantined": bad, "rounds": made.verdicts.round}


def _embed_task(campaign: "Campaign", folder: "RunDir", say: Say, task: int) -> dict[str, Any]:
    """Embed the shards of one task on this machine: it is a job, or a part of one."""
    from embedcube.campaign.plan import read_plan

    made = read_plan(campaign, folder)
    if task >= made.tasks + folder.pilot.exists():
        raise RequestError(f"--task {task}: the plan has tasks 0 to {made.tasks - 1}")
    _run_tasks(campaign, folder, say, (task,), "local")
    return {"task": task}


def _run_tasks(campaign: "Campaign", folder: "RunDir", say: Say, tasks: tuple[int, ...], executor: str) -> None:
    from embedcube.campaign.plugins import plugin

    with shown("embed", "shards", say) as progress:
        plugin("executors", executor)().run(campaign, folder, list(tasks), progress)


def pilot(campaign: "Campaign", folder: "RunDir", say: Say, count: int) -> dict[str, Any]:
    """Embed some shards in a Slurm job, and estimate from them the price of the campaign."""
    from embedcube.campaign.site import load_site, tasks_at_once
    from embedcube.jobs.pilot import describe_measured, measured_price
    from embedcube.jobs.submit import embed_pilot

    with shown("pilot", "shards", say) as progress:
        embed_pilot(campaign, folder, count, progress)
    site = load_site(campaign)
    price = measured_price(campaign, folder, at_once=tasks_at_once(campaign, site), cores_per_node=site.cpus_per_node)
    for line in describe_measured(price):
        say(f"            {line}")
    return asdict(price)


def consolidate(campaign: "Campaign", folder: "RunDir", say: Say) -> dict[str, Any]:
    """Make the cube from the parts; the answer has its path and version."""
    from embedcube.consolidate.consolidate import consolidate as make_cube

    with shown("consolidate", "objects", say) as progress:
        made = make_cube(campaign, folder, progress)
    what = f"in {made.objects} objects" if made.objects else "made in an earlier run"
    linked = f", {made.linked} of them linked from an earlier version" if made.linked else ""
    say(f"            version {made.version}: {made.shards} shards, {what}{linked}")
    if made.purged:
        say(
            f"            the site deletes old files, the first of the cube's then: before {made.purged} "
            f"copy {made.cube} to a file system where nothing is deleted"
        )
    return {"cube": str(folder.newest_cube), "version": made.version, "shards": made.shards}


def verify(
    campaign: "Campaign", folder: "RunDir", say: Say, *, recompute: int, seed: int | None, seal: str | None = None
) -> dict[str, Any]:
    """Verify the newest cube against the campaign's plan and records.

    Returns `findings` and `remarks`, a line each, the `seal` of the cube, and the `seed` of the shards embedded again.
    """
    from embedcube.consolidate.seal import seal_of
    from embedcube.consolidate.soundness import in_words
    from embedcube.consolidate.verify import verify_run

    if not folder.newest_cube.exists():
        raise RequestError(f"{folder.newest_cube}: there is no cube yet; run `embedcube consolidate` first")
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    with shown("verify", "shards", say) as progress:
        found = verify_run(campaign, folder, progress, recompute=recompute, seed=seed, seal=seal)
    for line in in_words(folder.report):
        say(f"            {line}")
    said = say_found(found, say)
    count = f"{recompute} shard{'s' if recompute > 1 else ''}"
    again = f"; embedded again: {count} of each layer and zone (--seed {seed})" if recompute else ""
    own = seal_of(folder.newest_cube)
    say(f"            seal {own}{again}")
    return said | {"seal": own, "seed": seed}


def verify_alone(path: Path, say: Say, seal: str | None) -> dict[str, Any]:
    """Verify a cube without its run folder; returns `findings` and `remarks`, a line each, and the cube's `seal`."""
    from embedcube.consolidate.seal import seal_of
    from embedcube.consolidate.verify import verify_cube

    with shown("verify", "shards", say) as progress:
        found = verify_cube(path, progress, seal=seal)
    said = say_found(found, say)
    own = seal_of(path)
    say(f"            seal {own}")
    return said | {"seal": own}


def say_found(found: Sequence["Finding"], say: Say) -> dict[str, list[str]]:
    """Print one line for each finding and remark, and their number; returns them as `findings` and `remarks`."""
    lines: dict[str, list[str]] = {"findings": [], "remarks": []}
    for one in found:
        lines["remarks" if one.remark else "findings"].append(str(one))
        say(f"            {'remark: ' if one.remark else ''}{one}")
    also = f", {len(lines['remarks'])} remarks: unusual, and perhaps right" if lines["remarks"] else ""
    words = f"{len(lines['findings'])} findings" if lines["findings"] else "nothing found wrong"
    say(f"            {words}{also}")
    return lines


def fail_on(findings: list[str]) -> None:
    """Raise a WorkError if there is any finding."""
    if findings:
        raise WorkError(f"verify: {len(findings)} findings, the first: {findings[0]}")


def say_examined(examined: "Examined", say: Say) -> None:
    """Print the results of `doctor`; raises a WorkError if a check failed."""
    from embedcube.jobs.doctor import describe

    for line in describe(examined):
        say(line)
    if wrong := examined.wrong:
        raise WorkError(
            f"doctor: {len(wrong)} of {len(examined.checks)} checks failed on {examined.host}, the first: "
            f"{wrong[0].what}: {wrong[0].found}"
        )
