"""merge: several runs, each of a part of one campaign, become the parts of one run, which is then consolidated."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import partial
from hashlib import sha256
from pathlib import Path
from sys import intern
from typing import NamedTuple

from embedcube.campaign.base import open_base
from embedcube.campaign.inventory import read_inventory, write_inventory
from embedcube.campaign.partial_runs import PartialRun, refuse_unlike
from embedcube.campaign.parts import Record
from embedcube.campaign.plan import Plan, Shard, read_shards
from embedcube.campaign.readable import read_code
from embedcube.campaign.reasons import compared
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.seals import read_digested
from embedcube.consolidate.accounts import account_of_run, asked_and_planned
from embedcube.consolidate.adopt import Adopted, adopt_all
from embedcube.consolidate.offers import Offer
from embedcube.consolidate.reprocess import recipes_of
from embedcube.errors import RequestError, WorkError
from embedcube.progress import Progress


def open_parts(paths: Sequence[Path], whole: RunDir) -> list[PartialRun]:
    """The runs that are merged, each with its campaign and plan.

    Raises:
        RequestError: a path is no run folder, has no plan or one of another version of its campaign, is named twice, or
            is that of the whole campaign.
    """
    parts: list[PartialRun] = []
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
        parts.append(PartialRun(base=base, run=base.run, campaign=campaign, plan=plan))
    return parts


def begin(campaign: Campaign, run: RunDir, parts: Sequence[PartialRun]) -> Plan:
    """Write inventory, weights and plan of the whole campaign, all of them made of those of the runs.

    Raises:
        RequestError: the runs would not make the bytes of one run (`refuse_unlike`), their inventories disagree, or
            the run folder has other weights already.
    """
    from embedcube.prepare.merged import merged_plan

    refuse_unlike(campaign, parts)
    run.root.mkdir(parents=True, exist_ok=True)
    write_inventory(campaign, _inventory(campaign, parts), run)
    for name in campaign.layers:
        _weights(campaign, run, name, next(part for part in parts if name in part.plan.layers))
    return merged_plan(campaign, run, parts)


def _inventory(campaign: Campaign, parts: Sequence[PartialRun]) -> list[Scene]:
    """The scenes of all inventories, archive after archive, each once."""
    inventories: list[tuple[Path, Sequence[Scene]]] = []
    alike: set[tuple[str, str]] = set()
    """scenes of one archive that share an id: they are told apart by their digests"""
    for part in parts:
        asked = part.campaign.model_copy(update={"withdraw": ()})
        scenes = read_inventory(asked, part.run, part.plan.inventory)
        counts = Counter((scene.archive, scene.id) for scene in scenes)
        alike |= {name for name, count in counts.items() if count > 1}
        inventories.append((part.base.path, scenes))
    found: dict[tuple[str, str, str, int], tuple[Scene, Path]] = {}
    for path, of_run in inventories:
        numbers: Counter[tuple[str, str, str]] = Counter()
        for scene in of_run:
            name = (scene.archive, scene.id, scene.digest if (scene.archive, scene.id) in alike else "")
            numbers[name] += 1
            known, earlier = found.setdefault((*name, numbers[name]), (scene, path))
            _refuse_other_facts(known, earlier, scene, path)
    if not found:
        raise RequestError(f"{', '.join(str(path) for path, _ in inventories)}: their inventories hold no scene")
    order = list(campaign.archives)
    return [scene for archive in order for scene, _ in found.values() if scene.archive == archive]


def _refuse_other_facts(known: Scene, earlier: Path, scene: Scene, path: Path) -> None:
    """Refuse two inventories that say different things of one scene."""
    for what, one, other in (
        ("digest", known.digest[:12], scene.digest[:12]),
        ("scene that is used instead", known.superseded_by, scene.superseded_by),
    ):
        if one != other:
            raise RequestError(
                f"{path}: {scene.archive}/{scene.id} has the {what} {other or 'none'}, {earlier} has "
                f"{one or 'none'}: the archive has changed between the runs; index, plan and embed one again"
            )


def _weights(campaign: Campaign, run: RunDir, name: str, part: PartialRun) -> None:
    """Take the weights and the compiled program of a layer from a run."""
    from embedcube.backbones.weights import read_weights, write_weights

    layer = part.plan.layers[name]
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
        if target.exists():
            return  # `verify` compares it with its digest
        if read_code(path) is None:
            raise RequestError(
                f"{path}: belongs to another user, and a compiled program is code that would run as you; if you trust "
                f"it, copy it to {target} and merge again"
            )
        write_atomically(target, read_digested(path, layer.program, "plan"))


def collect(run: RunDir, plan: Plan, parts: Sequence[PartialRun], progress: Progress) -> Adopted:
    """Take over the shards of all runs; one that is damaged in a run is taken from the next that has it.

    Raises:
        WorkError: two runs have different bytes for one recipe.
    """
    wanted, seen, adopted = recipes_of(run, plan), dict[str, _Result](), Adopted()
    done = recorded_recipes(run)
    for part in parts:
        chosen = partial(_unlike_none, part.base.path, seen, done, adopted)
        adopt_all(run, part.base, wanted, adopted, chosen=chosen, progress=progress)
    return adopted


class _Result(NamedTuple):
    """What is kept of each shard that a run has, as there may be millions."""

    missed: bytes
    """SHA-256 over the digests of the scenes that could not be read"""
    objects: bytes
    """SHA-256 over the digests of the objects"""
    host: str
    device: str
    path: Path
    """of the run"""

    @classmethod
    def of(cls, record: Record, path: Path) -> "_Result":
        """What is kept of a record."""
        missed = sorted({one.scene_digest for one in record.quarantined})
        missing, objects = (sha256(repr(one).encode()).digest() for one in (missed, record.bytes_digest))
        return cls(missing, objects, intern(record.host), intern(record.device), path)


def _unlike_none(
    path: Path, seen: dict[str, _Result], done: Set[str], adopted: Adopted, offers: Iterable[Offer]
) -> Iterator[Offer]:
    """The shards of a run that are not there yet; a WorkError names two that differ."""
    for offer in offers:
        record = offer.record
        result = _Result.of(record, path)
        known = seen.setdefault(record.recipe, result)
        # of two that could not read the same scenes, `consolidate` takes the better one
        other = known.missed != result.missed
        if not other and known.objects != result.objects:
            raise WorkError(
                f"{record.shard}: {known.path} (on {known.host}) and {path} (on {record.host}) have different bytes "
                f"for one recipe, both {record.device}; one of the machines is not to be trusted: embed the shard "
                "again in one of the runs"
            )
        if record.recipe not in done and (other or record.recipe not in adopted.recipes):
            yield offer


def refuse_missing(campaign: Campaign, run: RunDir, plan: Plan, parts: Sequence[PartialRun], adopted: Adopted) -> None:
    """Raise a WorkError where shards of the whole campaign are in no run; it names the run that should have them."""
    done = recorded_recipes(run)
    missing = [shard for group in read_shards(run, plan) for shard in group if shard.recipe not in done]
    if not missing:
        return
    lines = []
    windows = campaign.all_windows
    left = {shard.recipe: shard for shard in missing}
    for part in parts:
        of_run: dict[str, list[Shard]] = defaultdict(list)
        theirs = account_of_run(part.campaign, part.run, part.plan)
        for one in compared(theirs, account_of_run(campaign, run, plan)):
            if one.later is not None and one.earlier is not None and one.later.recipe in left:
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
