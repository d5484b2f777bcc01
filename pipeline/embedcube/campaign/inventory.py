"""inventory.parquet: its schema, reader and writer. `prepare/index.py` decides what goes into it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from embedcube.campaign.fields import nearest
from embedcube.campaign.inventory_rows import Earlier, Rows, Spread, notes_from, write_rows
from embedcube.campaign.parts import Unplaced
from embedcube.campaign.plan import Plan
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.seals import refused, write_sealed
from embedcube.campaign.search_extent import bounded
from embedcube.campaign.tables import inventory_digest, read_columns
from embedcube.campaign.withdrawn import Names, Used, matches, unknown_ids, used_otherwise
from embedcube.errors import RequestError

_NAMES = ("embedcube:archive", "id", "embedcube:superseded_by", "embedcube:shows")
"""columns of `Names`"""


def scenes_as_planned(campaign: Campaign, run: RunDir, plan: Plan) -> "Scenes":
    """The scenes of the inventory as the present round of the plan uses them, in its order.

    Raises:
        RequestError: as `read_inventory` says, or the plan was made for another inventory.
    """
    return read_inventory(campaign, run, plan.inventory, plan.verdicts.filling)


def read_inventory(
    campaign: Campaign, run: RunDir, planned: str = "", filling: frozenset[int] = frozenset()
) -> "Scenes":
    """The scenes of the inventory, in its order. Each is decoded when it is first used, as a rank needs few of them.

    `planned` is the SHA-256 of the inventory that a plan was made for; before there is a plan it is left out. Rows of
    `filling` only fill what newer scenes do not show.

    Raises:
        RequestError: there is no inventory, it is damaged or of another version of embedcube, or it was made for
            other archives or bands, or it is not the planned one.
    """
    if not run.inventory.exists():
        raise RequestError(f"{run.inventory}: there is no inventory yet; run `embedcube index` first")
    digest = inventory_digest(run)
    if planned not in ("", digest):
        raise RequestError(f"{run.plan} was made for another inventory; run `embedcube plan` again")
    names = ("embedcube:scene", "embedcube:noted", "embedcube:asked", *(_NAMES if campaign.withdraw else ()))
    table = read_columns(run.inventory, digest, names, "index")
    if set(table["embedcube:asked"].unique().to_pylist()) != set(asked_of(campaign).values()):
        raise RequestError(f"{run.inventory} was made for other archives or bands; run `embedcube index` again")
    scenes = Scenes(table["embedcube:scene"], table["embedcube:noted"], run.inventory, filling)
    if len(scenes):
        scenes[0]  # refuses the scenes of another version of embedcube here, before any work is done
    if campaign.withdraw:
        scenes.use_otherwise(used_otherwise(campaign.withdraw, _names(table), scenes))
    return scenes


def read_names(campaign: Campaign, run: RunDir, planned: str) -> Names:
    """Archive, id and `superseded_by` of each scene, as `read_inventory` gives them; quicker where no more is needed.

    Raises:
        RequestError: as `read_inventory`.
    """
    names = _names(read_columns(run.inventory, planned, _NAMES, "index"))
    if not campaign.withdraw:
        return names
    used = list(names.superseded_by)
    for row, instead in read_inventory(campaign, run, planned).used_otherwise.items():
        used[row] = instead.superseded_by
    return replace(names, superseded_by=used)


def refuse_unknown_withdrawn(campaign: Campaign, run: RunDir) -> None:
    """Raise a RequestError where `withdraw` names a scene that the inventory does not have."""
    if not campaign.withdraw:
        return
    names = _names(read_columns(run.inventory, inventory_digest(run), _NAMES, "index"))
    if unknown := unknown_ids(campaign.withdraw, names):
        raise RequestError(
            f'withdraw: "{unknown[0]}" is in no archive of the inventory{nearest(unknown[0], {*names.ids})}'
        )


def _names(table: pyarrow.Table) -> Names:
    archives, ids, used, shows = (table[name].to_pylist() for name in _NAMES)
    return Names(archives=archives, ids=ids, superseded_by=used, shows=shows)


def unplaced_scenes(campaign: Campaign, run: RunDir) -> Unplaced:
    """The scenes that cannot be used and whose place is unknown, among those of the inventory.

    Raises:
        RequestError: the inventory is damaged or of another version of embedcube.
    """
    digest, (unusable, of) = inventory_digest(run), unusable_scenes(run)
    if not unusable:
        return Unplaced(scenes=[], of=of)  # spares reading them
    with_verdict = [("embedcube:verdict", "!=", "")]
    table = read_columns(run.inventory, digest, ("embedcube:scene", "embedcube:noted"), "index", with_verdict)
    scenes = Scenes(table["embedcube:scene"], table["embedcube:noted"], run.inventory)
    found = [scene for scene in scenes if not scene.placed]
    used = [one for one in found if not one.superseded_by and not matches(campaign.withdraw, one.archive, one.id)]
    return Unplaced(scenes=used, of=of)


def unusable_scenes(run: RunDir) -> tuple[int, int]:
    """How many scenes of the inventory `index` has found unusable, and how many there are.

    Raises:
        RequestError: the inventory is damaged or of another version of embedcube.
    """
    verdicts = read_columns(run.inventory, inventory_digest(run), ("embedcube:verdict",), "index")["embedcube:verdict"]
    return pyarrow.compute.sum(pyarrow.compute.not_equal(verdicts, "")).as_py() or 0, len(verdicts)


def made_for(campaign: Campaign, run: RunDir) -> bool:
    """Whether the inventory was made for the windows and the region that the campaign has now.

    When windows or region change, the archive has most likely grown too.
    """
    name = "embedcube:made_for"
    try:
        extents = read_columns(run.inventory, inventory_digest(run), (name,), "index")[name].unique().to_pylist()
    except RequestError:
        return False
    return set(extents) == {extent_of(campaign)}


class Scenes(Sequence[Scene]):
    """The scenes of an inventory, each decoded when it is first used."""

    def __init__(
        self,
        texts: pyarrow.ChunkedArray,
        noted: pyarrow.ChunkedArray,
        path: Path,
        filling: frozenset[int] = frozenset(),
    ) -> None:
        """Rows of `filling` only fill what newer scenes do not show."""
        self._texts, self._noted = texts.combine_chunks(), noted.combine_chunks()
        self._path, self._filling = path, filling
        self._made: dict[int, Scene] = {}
        self.used_otherwise: Mapping[int, Used] = {}
        """by row, where it is otherwise than the inventory says, because scenes are withdrawn"""

    def use_otherwise(self, used: Mapping[int, Used]) -> None:
        """Use the scenes of these rows otherwise than the inventory says."""
        self.used_otherwise = used
        for row in self._made.keys() & used.keys():
            del self._made[row]

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> Scene: ...

    @overload
    def __getitem__(self, place: slice) -> list[Scene]: ...

    def __getitem__(self, place: int | slice) -> Scene | list[Scene]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if place not in self._made:
            try:
                scene = Scene.from_json(self._texts[place].as_py(), notes_from(self._noted[place].as_py()))
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise refused(self._path, error, "index") from None
            if used := self.used_otherwise.get(place):
                scene = used.of(scene)
            self._made[place] = scene.filling() if place in self._filling else scene
        return self._made[place]


def asked_of(campaign: Campaign) -> dict[str, str]:
    """For each archive, the digest of its block and of its search."""
    asked = {}
    for name, block in campaign.what["archives"].items():
        search = bounded(campaign, name).search
        asked[name] = digest_of({name: block} | ({"search": search.model_dump(mode="json")} if search else {}))
    return asked


def extent_of(campaign: Campaign) -> str:
    """Digest of the windows and the region."""
    return digest_of({key: campaign.what[key] for key in ("windows", "region")})


def write_inventory(
    campaign: Campaign,
    scenes: Sequence[Scene],
    run: RunDir,
    *,
    earlier: Earlier | None = None,
    spread: Spread | None = None,
    remembered: dict[str, Any] | None = None,
) -> None:
    """Write the inventory and its digest; killed in between, the two do not agree, which every reader sees.

    Rows that are in the `earlier` inventory are taken from it; `spread` makes the others on several cores. The bytes of
    the file are the same without these. `remembered` is what `write_remembered` says of its file.
    """
    rows = Rows.of(asked_of(campaign), extent_of(campaign), scenes)
    with replacing(run.inventory) as temporary:
        write_rows(rows, scenes, temporary, earlier, spread)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        told = {} if remembered is None else {"remembered": remembered}
        write_sealed(run.inventory_seal, {"sha256": digest, "scenes": len(scenes)} | told)
