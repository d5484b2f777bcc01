"""plan.parquet and plan.json: their schema and their readers. `prepare/plan.py` writes them.

Every recipe that is read here is the one without the scenes that are out (`verdicts.py`).
"""

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from embedcube.campaign.plan_files import plan_pieces
from embedcube.campaign.price import Price
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, Encoding, digest_of
from embedcube.campaign.seals import read_digested, read_sealed, refused, write_sealed
from embedcube.campaign.tables import inventory_digest
from embedcube.campaign.verdicts import Verdicts, read_verdicts
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout, ShardRange
from embedcube.zones import ObjectShape, SampleList, samples_from

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The unit of work: can be printed, pickled, and run again alone."""

    layer: str
    zone: str
    """name of the grid"""
    t: int
    """window, as an index of the cube"""
    row: int
    """on the shard lattice of the grid"""
    col: int
    """on the shard lattice of the grid"""
    iy: int
    """row of shards in the cube"""
    ix: int
    """column of shards in the cube"""
    recipe: str
    """hex SHA-256 of all that determines the bytes"""
    scenes: tuple[int, ...]
    """rows of the inventory, in the order of compositing"""

    @property
    def place(self) -> tuple[str, int, int, int]:
        """Place of the shard in the cube: "<layer>/<zone>", t, iy, ix."""
        return f"{self.layer}/{self.zone}", self.t, self.iy, self.ix

    def __str__(self) -> str:
        return f"{self.layer}/{self.zone} t{self.t} y{self.iy} x{self.ix}"


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The shards of a layer, as columns; the scenes of shard i are `scenes[first[i] : first[i + 1]]`."""

    t: Ints
    row: Ints
    col: Ints
    first: Ints
    scenes: Ints


_AT_ONCE = 1 << 16
"""recipes that are hashed together"""


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What holds for all shards of a layer: enough to make its part of the cube without its sources and backbone."""

    zones: dict[str, ShardRange]
    """for each grid by its name, the shards that the layer's arrays span"""
    grids: dict[str, Grid]
    """by name"""
    layout: ShardLayout
    encoding: Encoding
    dimensions: int
    """numbers in a vector"""
    chunk_windows: int
    """windows in one chunk of the cube"""
    objects: ObjectShape
    """shards in one object of the cube"""
    collections: tuple[str, ...]
    """for each archive, a URI of what its scenes are"""
    counted: tuple[str, ...]
    """archives whose scenes make a cell valid and are counted in `n_obs`"""
    weights: str
    """SHA-256 of the file of weights"""
    fitted_on: str
    """period that the weights were fitted on; empty where they were published"""
    model: str
    """URI of the model; of several, with spaces between"""
    batch: int
    """chips in one forward pass"""
    batch_for: str
    """digest of the weights, software and layer for which `plan` measured `batch`; empty where the campaign sets it"""
    program: str
    """SHA-256 of the compiled forward pass; empty where the layer is not compiled"""
    compiled_for: str
    """digest of all that the program was compiled for"""
    versions: dict[str, str]
    """versions of the software that computes the layer"""
    plugins: tuple[str, ...]
    """name and version of the package of each source and of the backbone; empty for those of embedcube"""
    empty: tuple[int, ...]
    """windows in which no scene makes a cell valid"""
    gaps: dict[str, list[str]] = field(default_factory=dict)
    """for each window that lacks steps of a series or scenes of an archive, by its number: which, in words"""
    reading: str = ""
    """which `shard_chips` decodes each block of the files about once, in words; empty where the shards do"""
    better_chips: int = 0
    """that `shard_chips`; 0 where the shards do, or no others were found"""
    resampled: dict[str, list[str]] = field(default_factory=dict)
    """for each grid onto which scenes are resampled: how many, and a warning where they meet copied ones, in words"""
    samples: SampleList | None = None
    """the zone that is a list of samples, of a layer that has one instead of grids"""
    offset: tuple[float, ...] = ()
    """of a centred layer the number of each feature that is subtracted before a vector is stored, of float32"""

    def zone(self, name: str) -> Grid | SampleList:
        """The zone with this name."""
        return self.samples if self.samples is not None else self.grids[name]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What holds for all rows of a plan."""

    campaign: str
    """digest of the campaign that the plan was made for"""
    plan: str
    """digest over all recipes, those of the first round: two plans with equal ones make the same shards"""
    inventory: str
    """SHA-256 of the inventory whose rows the plan names"""
    versions: dict[str, str]
    """versions of all software that computes bytes; a rank with other versions refuses to start"""
    layers: dict[str, LayerPlan]
    shards: int
    tasks: int
    price: Price
    files: dict[str, str]
    """SHA-256 of each file of the plan, by its name in the run folder; rows go on from one to the next"""
    tasks_of: dict[str, tuple[int, int]] = field(default_factory=dict)
    """first and last task of each file of a plan that has several; empty where plan.parquet has all"""
    verdicts: Verdicts = field(default=Verdicts())
    """the scenes that are out for all shards; of a file of its own"""

    @property
    def digests(self) -> dict[str, str]:
        """What the verdicts of this plan are kept with: other verdicts may hold where one of them differs."""
        return {"campaign": self.campaign, "plan": self.plan, "inventory": self.inventory}

    def files_of(self, task: int | None) -> list[str]:
        """Names of the files that may have rows of a task, or of all files; of a pilot there are none."""
        if task is None or not self.tasks_of:
            return list(self.files)
        return [name for name, (first, last) in self.tasks_of.items() if first <= task <= last]

    @property
    def seal(self) -> str:
        """The digest of all rows in their order."""
        [first, *more] = self.files.values()
        return digest_of([first, *more]) if more else first

    @property
    def summary(self) -> dict[str, Any]:
        """What plan.json holds."""
        return {name: value for name, value in asdict(self).items() if name != "verdicts"}


def read_plan(campaign: Campaign, run: RunDir) -> Plan:
    """The summary of the plan (plan.json).

    Raises:
        RequestError: there is no plan, it is damaged, or it was made for another version of the campaign, for another
            inventory, or by another version of embedcube.
    """
    plan = read_any_plan(run)
    if plan.campaign != campaign.digest:
        raise RequestError(
            f"{run.plan} was made for another version of the campaign ({plan.campaign[:12]}, the file now "
            f"says {campaign.digest[:12]}); run `embedcube plan` again"
        )
    if not run.inventory.exists():
        raise RequestError(f"{run.inventory}: there is no inventory any more; run `embedcube index` again")
    if plan.inventory != inventory_digest(run):
        raise RequestError(f"{run.plan} was made for another inventory; run `embedcube plan` again")
    read_digested(run.inventory, plan.inventory, "index")
    return plan


def read_any_plan(run: RunDir) -> Plan:
    """The summary of the plan, whatever campaign and inventory it was made for: to tell what is there, not to work.

    Raises:
        RequestError: there is no plan, it is damaged, or another version of embedcube made it.
    """
    if not is_planned(run):
        raise RequestError(f"{run.plan}: there is no plan yet; run `embedcube plan` first")
    try:
        plan = _plan_of(read_sealed(run.plan_summary, "plan"))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise refused(run.plan_summary, error, "plan") from None
    return replace(plan, verdicts=read_verdicts(run, plan.digests))


def is_planned(run: RunDir) -> bool:
    """Whether there are files of a plan, whatever is in them."""
    return run.plan_summary.exists() and (run.plan.exists() or run.plan_folder.exists())


def _plan_of(document: dict[str, Any]) -> Plan:
    document["tasks_of"] = {name: tuple(tasks) for name, tasks in document.pop("tasks_of", {}).items()}
    layers = {name: _layer_plan(layer) for name, layer in document.pop("layers").items()}
    return Plan(layers=layers, price=Price(**document.pop("price")), **document)


def _layer_plan(document: dict[str, Any]) -> LayerPlan:
    zones = {zone: ShardRange(**place) for zone, place in document.pop("zones").items()}
    grids = {zone: Grid(**grid) for zone, grid in document.pop("grids").items()}
    listed = document.pop("samples")
    layout, objects = ShardLayout(**document.pop("layout")), ObjectShape(**document.pop("objects"))
    document |= {name: tuple(document[name]) for name in ("collections", "counted", "plugins", "empty")}
    document["offset"] = tuple(document.get("offset", ()))  # plans of before have none
    samples = listed and samples_from(listed)
    return LayerPlan(zones=zones, grids=grids, layout=layout, objects=objects, samples=samples, **document)


def read_shards(run: RunDir, plan: Plan, task: int | None = None) -> list[list[Shard]]:
    """The draw groups of a task (or of all tasks), in the order in which they are drawn."""
    names = ("layer", "zone", "t", "row", "col", "recipe", "scenes", "task", "draw")
    groups: dict[tuple[int, int], list[Shard]] = {}
    for piece in plan_pieces(run, plan, names, task):
        columns = (piece[name].to_pylist() for name in names)
        for layer, zone, t, row, col, recipe, scenes, task_of, draw in zip(*columns, strict=True):
            if layer not in plan.layers or zone not in plan.layers[layer].zones:
                raise RequestError(
                    f"{run.plan} has shards of {layer}/{zone}, which {run.plan_summary.name} does not name; "
                    "run `embedcube plan` again"
                )
            place = plan.layers[layer].zones[zone]
            shard = Shard(
                layer=layer,
                zone=zone,
                t=t,
                row=row,
                col=col,
                iy=row - place.row,
                ix=col - place.col,
                recipe=recipe,
                scenes=tuple(scenes),
            )
            groups.setdefault((task_of, draw), []).append(shard)
    return list(groups.values())


def read_recipes(run: RunDir, plan: Plan, task: int | None = None) -> list[str]:
    """The recipe of each shard of a task (or of all tasks)."""
    return [recipe for piece in plan_pieces(run, plan, ("recipe",), task) for recipe in piece["recipe"].to_pylist()]


def tasks_undone(run: RunDir, plan: Plan, done: Container[str]) -> tuple[int, ...]:
    """Numbers of the tasks that have a shard whose recipe is not in `done`; one read of the plan for all tasks."""
    return tuple(sorted({task for task, recipe in tasks_of_recipes(run, plan) if recipe not in done}))


def tasks_of_recipes(run: RunDir, plan: Plan) -> Iterator[tuple[int, str]]:
    """For each shard of the plan the number of its task and its recipe."""
    for piece in plan_pieces(run, plan, ("task", "recipe"), None):
        yield from zip(piece["task"].to_pylist(), piece["recipe"].to_pylist(), strict=True)


def planned_scenes(run: RunDir, plan: Plan, scenes: Sequence[Scene], task: int | None = None) -> list[Scene]:
    """The scenes of the inventory that the shards of a task (or of all tasks) need."""
    used = np.zeros(len(scenes), dtype=bool)
    for piece in plan_pieces(run, plan, ("scenes",), task):
        used[pyarrow.compute.list_flatten(piece["scenes"]).to_numpy()] = True
    return [scenes[i] for i in np.nonzero(used)[0].tolist()]


def read_plan_columns(run: RunDir, plan: Plan, names: tuple[str, ...]) -> pyarrow.Table:
    """Columns of all rows of the plan.

    Raises:
        RequestError: a file is not the one that plan.json was written with.
    """
    return pyarrow.concat_tables(plan_pieces(run, plan, names, None))


def write_pilot(run: RunDir, plan: Plan, rows: list[int]) -> None:
    """Make these rows of the plan the pilot: one more task, after the last of the plan, in this order."""
    write_sealed(run.pilot, {"plan": plan.seal, "rows": rows})


def digest_of_recipes(recipes: list[str]) -> str:
    """SHA-256 over recipes in any order."""
    return hashlib.sha256("".join(sorted(recipes)).encode()).hexdigest()


def digest_of_digests(recipes: NDArray[np.uint8]) -> str:
    """The same digest of recipes that are bytes, (recipe, 32): without a text for each."""
    begin = np.ascontiguousarray(recipes[:, :8]).view(">u8").ravel().astype(np.uint64)
    order = np.argsort(begin)
    equal = np.nonzero(begin[order[1:]] == begin[order[:-1]])[0]
    if len(equal):  # two recipes are equal, or a rare chance: all their bytes count
        order = np.lexsort(recipes.T[::-1])
    digest = hashlib.sha256()
    for start in range(0, len(order), _AT_ONCE):
        digest.update(recipes[order[start : start + _AT_ONCE]].tobytes().hex().encode())
    return digest.hexdigest()
