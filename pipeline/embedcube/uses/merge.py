"""merge: several runs, each of a part of one campaign, become the parts of one run, which is then consolidated."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from embedcube.campaign.base import Base, open_base
from embedcube.campaign.inventory import read_inventory, write_inventory
from embedcube.campaign.partial_runs import PartialRun, refuse_unlike
from embedcube.campaign.parts import recorded_recipes
from embedcube.campaign.plan import Plan, Shard, read_shards
from embedcube.campaign.reasons import compared
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.seals import read_digested
from embedcube.consolidate.accounts import account_of_run, asked_and_planned
from embedcube.consolidate.adopt import Adopted, adopt
from embedcube.consolidate.offers import Offer, offers_of
from embedcube.errors import RequestError, WorkError
from embedcube.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the runs that are merged."""

    base: Base
    run: RunDir
    partial: PartialRun


def open_parts(paths: Sequence[Path], whole: RunDir) -> list[Part]:
    """The runs that are merged, each with its campaign and plan.

    Raises:
        RequestError: a path is no run folder, has no plan or one of another version of its campaign, is named twice, or
            is that of the whole campaign.
    """
    parts: list[Part] = []
    for path in paths:
        base = open_base(path)
        if base.run is None or not base.has_parts:
            raise RequestError(f"{path}: a cube and no run folder; merge needs plan and inventory")
        if base.run.root == whole.root.resolve():
            raise RequestError(
                f"{path}: the run folder of the whole campaign itself; give the campaign file another `campaign`"
            )
        if base.run.root in (part.run.root for part in parts):
            raise RequestError(f"{path}: named twice")
        campaign, plan = asked_and_planned(base.run)
        parts.append(Part(base=base, run=base.run, partial=PartialRun(path=path, campaign=campaign, plan=plan)))
    return parts


def begin(campaign: Campaign, run: RunDir, parts: Sequence[Part]) -> Plan:
    """Write inventory, weights and plan of the whole campaign, all of them made of those of the runs.

    Raises:
        RequestError: the runs would not make the bytes of one run (`refuse_unlike`), their inventories disagree, or
            the run folder has other weights already.
    """
    from embedcube.prepare.merged import merged_plan

    refuse_unlike(campaign, [part.partial for part in parts])
    run.root.mkdir(parents=True, exist_ok=True)
    write_inventory(campaign, _inventory(campaign, parts), run)
    for name in campaign.layers:
        _weights(campaign, run, name, next(part for part in parts if name in part.partial.plan.layers))
    return merged_plan(campaign, run, [part.partial for part in parts])


def _inventory(campaign: Campaign, parts: Sequence[Part]) -> list[Scene]:
    """The scenes of all inventories, archive after archive, each once."""
    found: dict[tuple[str, str, str], tuple[Scene, Path]] = {}
    for part in parts:
        counts: Counter[tuple[str, str]] = Counter()
        asked = part.partial.campaign.model_copy(update={"withdraw": ()})
        for scene in read_inventory(asked, part.run, part.partial.plan.inventory):
            counts[scene.archive, scene.id] += 1  # an archive may hold two scenes of one name
            key = (scene.archive, scene.id, str(counts[scene.archive, scene.id]))
            known, path = found.setdefault(key, (scene, part.base.path))
            for what, one, other in (
                ("digest", known.digest[:12], scene.digest[:12]),
                ("scene that is used instead", known.superseded_by, scene.superseded_by),
            ):
                if one != other:
                    raise RequestError(
                        f"{part.base.path}: {scene.archive}/{scene.id} has the {what} {other or 'none'}, {path} has "
                        f"{one or 'none'}: the archive has changed between the runs; index, plan and embed one again"
                    )
    order = list(campaign.archives)
    return [scene for archive in order for scene, _ in found.values() if scene.archive == archive]


def _weights(campaign: Campaign, run: RunDir, name: str, part: Part) -> None:
    """Take the weights and the compiled program of a layer from a run."""
    from embedcube.backbones.weights import read_weights, write_weights

    layer = part.partial.plan.layers[name]
    data = read_digested(part.run.weights(name), layer.weights, "fit")
    if not run.weights(name).exists():
        write_weights(run, name, data)
    if (digest := read_weights(campaign, run, name)[1]) != layer.weights:
        raise RequestError(
            f"{run.weights(name)}: has the SHA-256 {digest[:12]}, and {part.base.path} used {layer.weights[:12]}; "
            "remove the former"
        )
    if layer.program:
        path = part.run.program(name, layer.compiled_for, layer.program)
        target = run.program(name, layer.compiled_for, layer.program)
        write_atomically(target, read_digested(path, layer.program, "plan"))


def collect(run: RunDir, plan_recipes: Iterable[str], parts: Sequence[Part], progress: Progress) -> Adopted:
    """Take over the shards of all runs.

    Raises:
        WorkError: two runs have different bytes for one recipe.
    """
    wanted, seen, total = set(plan_recipes), dict[str, tuple[Offer, Part]](), Adopted()
    done = recorded_recipes(run)
    for part in parts:
        offers = (offer for offer in _unlike_none(part, wanted, seen) if offer.record.recipe not in done)
        adopted = adopt(run, offers, partial(_behind, progress, total.shards, len(wanted)))
        total.shards += adopted.shards
        total.linked += adopted.linked
        total.copied += adopted.copied
        total.absent += adopted.absent
        total.damaged += adopted.damaged
    return total


def _behind(progress: Progress, before: int, total: int, done: int, _: int | None) -> None:
    """Show progress of one run behind so many shards of others."""
    progress(before + done, total)


def _unlike_none(part: Part, wanted: set[str], seen: dict[str, tuple[Offer, Part]]) -> Iterator[Offer]:
    """The shards of a run that no run before has had; a WorkError names two that differ."""
    for offer in offers_of(part.base, wanted):
        record = offer.record
        missed = {one.scene_digest for one in record.quarantined}
        known, of = seen.setdefault(record.recipe, (offer, part))
        if known is offer or {one.scene_digest for one in known.record.quarantined} != missed:
            yield offer  # of two that could not read the same scenes, `consolidate` takes the better one
        elif known.record.bytes_digest != record.bytes_digest:
            raise WorkError(
                f"{record.shard}: {of.base.path} (on {known.record.host}) and {part.base.path} (on {record.host}) have "
                f"different bytes for one recipe, both {record.device}; one of the machines is not to be trusted: "
                "embed the shard again in one of the runs"
            )


def refuse_missing(campaign: Campaign, run: RunDir, plan: Plan, parts: Sequence[Part], adopted: Adopted) -> None:
    """Raise a WorkError where shards of the whole campaign are in no run; it names the run that should have them."""
    done = recorded_recipes(run)
    missing = [shard for group in read_shards(run, plan) for shard in group if shard.recipe not in done]
    if not missing:
        return
    lines = []
    windows, recipes = campaign.all_windows, {shard.recipe for shard in missing}
    left = {shard.recipe: shard for shard in missing}
    for part in parts:
        of_run: dict[str, list[Shard]] = defaultdict(list)
        theirs = account_of_run(part.partial.campaign, part.run, part.partial.plan)
        for one in compared(theirs, account_of_run(campaign, run, plan)):
            if one.later is not None and one.earlier is not None and one.later.recipe in recipes & left.keys():
                del left[one.later.recipe]
                same = one.earlier.recipe == one.later.recipe
                of_run["not embedded there" if same else f"there with another recipe: {one.reason}"].append(one.later)
        for why, shards in of_run.items():
            first = _named(shards[0], windows)
            lines.append(f"{part.base.path} should have {len(shards)}, the first is {first}: {why}")
    if left:
        first = _named(next(iter(left.values())), windows)
        lines.append(f"{len(left)} are of none of the runs, the first is {first}")
    lines += [f"damaged: {words}" for words in adopted.damaged[:3]]
    raise WorkError(
        "\n".join(
            [f"{len(missing)} of {plan.shards} shards are missing; embed them in their run and merge again:", *lines]
        )
    )


def _named(shard: Shard, windows: Sequence[object]) -> str:
    return f"{shard} ({windows[shard.t]})"
