"""Writing the group `provenance/` of a cube: the origin, the scenes and the bytes of each shard.

Plain arrays, no strings (tensorstore cannot open those): digests are uint8 (n, 32), text is UTF-8 bytes with offsets.

    shard_zone, shard_t, shard_iy, shard_ix    where a shard is; one row per shard
    shard_recipe                                (n, 32)
    shard_record, shard_record_first            its record as JSON; row i is bytes [first[i], first[i + 1])
    scene, scene_first                          a scene as JSON
    scene_digest                                (m, 32)
    link_first                                  the links of shard i are [first[i], first[i + 1])
    link_scene                                  row of the scene; in the order of compositing
    link_resampling                             row of `resampling`
    resampling, resampling_first                how the bands came onto the grid, in words, as JSON by band: copied,
                                                repeated, warped; empty where a source does it in its own way, which
                                                `processing` describes
    link_quarantined                            1 where the scene could not be read for this shard
    contributions, contributions_first          per shard, one row of ceil(cells / 8) bytes for each of its links:
                                                the cells (row-major, numpy.packbits) that got a pixel of it
    shares, shares_first                        per shard, for each frame, archive and cell the share of the frame that
                                                was observed (pixels that are clear; of a series, of its time too):
                                                little-endian uint16, 65535 for all of it, zlib-compressed
    weights, weights_first                      the weights file of each layer in the attribute `weights_kept`: of those
                                                that were fitted, without which no shard could be made again
    crate                                       a group without arrays: files for other tools (`prov_files.py`)
    files                                       SHA-256, as JSON, of every other file of the cube that no record covers
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import zarr

from embedcube.campaign.parts import Record, version_of
from embedcube.campaign.plan import Plan, Shard, digest_of_recipes
from embedcube.campaign.resampling import resampling_in_words
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.crate import RunOfCube, RunOfLayer
from embedcube.consolidate.prov_files import FOLDER, write_files
from embedcube.consolidate.receipt import receipt
from embedcube.consolidate.stored import StoredReader
from embedcube.cube.arrays import FILES, file_names, is_object
from embedcube.errors import WorkError
from embedcube.zones import SampleList

_CHUNK = 1 << 20

_MOST_WEIGHTS = 64 << 20
"""bytes of a weights file that a cube keeps"""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A shard, its record, and the part that holds its bytes."""

    shard: Shard
    part: Path
    record: Record

    @property
    def zone(self) -> str:
        """Path of the group of the cube that holds the shard: "<layer>/<zone>"."""
        return f"{self.shard.layer}/{self.shard.zone}"


def write_provenance(
    campaign: Campaign,
    plan: Plan,
    scenes: Sequence[Scene],
    made: list[Made],
    cube: Path,
    weights: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write `provenance/` below `cube`, whose objects are there; the rest of an interrupted attempt is replaced.

    `weights` has the bytes of the weights files that the cube keeps, by layer.
    """
    zones = [f"{name}/{zone}" for name, layer in plan.layers.items() for zone in layer.zones]
    group = zarr.open_group(cube / "provenance", mode="w", zarr_format=3)
    group.update_attributes(_attributes(campaign, plan, zones, made, weights))
    row_of = {zone: i for i, zone in enumerate(zones)}
    _write(group, "shard_zone", [row_of[m.zone] for m in made], np.uint16)
    for name in ("t", "iy", "ix"):
        _write(group, f"shard_{name}", [getattr(m.shard, name) for m in made], np.int32)
    _write_digests(group, "shard_recipe", (m.shard.recipe for m in made))
    _write_texts(group, "shard_record", made, lambda m: m.record.to_line().rstrip())
    _write_texts(group, "scene", scenes, lambda scene: scene.to_json().encode())
    _write_digests(group, "scene_digest", (scene.digest for scene in scenes))
    _write_links(group, scenes, made)
    _write_resampling(group, campaign, plan, scenes, made)
    _write_texts(group, "weights", weights.values(), bytes)
    group.create_group(FOLDER)
    write_files(_run_of(campaign, plan, len(scenes), made), cube / "provenance" / FOLDER)
    # records have the digests of what is in objects, but where several windows are in one chunk
    recorded = {name for name, layer in plan.layers.items() if layer.chunk_windows == 1}
    names = {
        name
        for name in file_names(cube)
        if not Path(name).name.startswith(TEMPORARY_PREFIX)
        and not (is_object(name) and name.partition("/")[0] in recorded)
    }
    files = {name: hashlib.sha256((cube / name).read_bytes()).hexdigest() for name in names}
    _write(group, FILES, np.frombuffer(json.dumps(files, sort_keys=True).encode(), dtype=np.uint8), np.uint8)


def _attributes(
    campaign: Campaign, plan: Plan, zones: list[str], made: list[Made], weights: Iterable[str]
) -> dict[str, Any]:
    """What holds for all shards; `weights` are the layers whose weights the cube keeps."""
    return {
        "campaign": campaign.campaign,
        "campaign_digest": campaign.digest,
        "plan_digest": digest_of_recipes([m.shard.recipe for m in made]),
        "zones": zones,
        "counted": {name: layer.counted for name, layer in plan.layers.items()},
        "weights": {name: layer.weights for name, layer in plan.layers.items()},
        "planned": {
            name: {
                "batch": layer.batch,
                "versions": layer.versions,
                "plugins": layer.plugins,
                "objects": asdict(layer.objects),
            }
            for name, layer in plan.layers.items()
        },
        "programs": {name: layer.program for name, layer in plan.layers.items() if layer.program},
        "gaps": {name: layer.gaps for name, layer in plan.layers.items() if layer.gaps},
        "fitted_on": {name: layer.fitted_on for name, layer in plan.layers.items()},
        "weights_kept": list(weights),
        "versions": plan.versions,
        "out": {str(row): list(one.instead) for row, one in sorted(plan.verdicts.scenes.items())},
        "receipt": receipt([m.record for m in made]),
        "receipts": {zone: receipt([m.record for m in made if m.zone == zone]) for zone in zones},
    }


def fitted_weights(run: RunDir, plan: Plan) -> dict[str, bytes]:
    """The weights files that a cube keeps: those that were fitted, of a size that is small beside a cube.

    Published weights are found elsewhere by their digest, and their licence may forbid a copy.

    Raises:
        WorkError: a file is not the one of the plan.
    """
    found = {}
    for name, layer in plan.layers.items():
        path = run.weights(name)
        if layer.fitted_on and path.is_file() and path.stat().st_size <= _MOST_WEIGHTS:
            found[name] = path.read_bytes()
            if (digest := hashlib.sha256(found[name]).hexdigest()) != layer.weights:
                raise WorkError(
                    f"{path}: its SHA-256 is {digest[:12]}, the plan was made with {layer.weights[:12]}; restore it, "
                    "or run `embedcube plan` again"
                )
    return found


def _write_links(group: zarr.Group, scenes: Sequence[Scene], made: list[Made]) -> None:
    first = np.cumsum([0, *(len(m.shard.scenes) for m in made)])
    _write(group, "link_first", first, np.int64)
    _write(group, "link_scene", np.fromiter((scene for m in made for scene in m.shard.scenes), np.int32), np.int32)
    digests = [scene.digest for scene in scenes]
    quarantined = (row for m in made for row in _quarantined(m, digests))
    _write(group, "link_quarantined", np.fromiter(quarantined, np.uint8), np.uint8)
    contributions = _Blobs(group, "contributions", [m.record.contributions_size for m in made])
    shares = _Blobs(group, "shares", [m.record.shares_size for m in made])
    # one shard after the other: those of all together may be more than memory holds
    with StoredReader() as reader:
        for one in made:
            fed, size = reader.read(one.part, one.record.fed), one.record.contributions_size
            contributions.append(fed[:size])
            shares.append(fed[size:])
    contributions.close()
    shares.close()


def _run_of(campaign: Campaign, plan: Plan, scenes: int, made: Sequence[Made]) -> RunOfCube:
    """How the cube was computed, for other tools."""
    layers = [
        RunOfLayer(
            name=name,
            backbone=str(campaign.layers[name].backbone["name"]),
            archives=campaign.layers[name].archives,
            weights=layer.weights,
            records=[one.record for one in made if one.shard.layer == name],
        )
        for name, layer in plan.layers.items()
    ]
    version = version_of(campaign, plan.layers, [one.record for one in made])
    return RunOfCube(campaign=campaign, version=version, scenes=scenes, software=plan.versions, layers=layers)


def _quarantined(made: Made, digests: Sequence[str]) -> list[bool]:
    """For each scene of a shard whether it could not be read."""
    unreadable = {one.scene_digest for one in made.record.quarantined}
    return [digests[row] in unreadable for row in made.shard.scenes]


def _write_resampling(
    group: zarr.Group, campaign: Campaign, plan: Plan, scenes: Sequence[Scene], made: list[Made]
) -> None:
    @cache
    def in_words(row: int, layer: str, zone: str) -> bytes:
        scene, grid = scenes[row], plan.layers[layer].zone(zone)
        method_of = campaign.archives[scene.archive].resampling_of
        # a sample is where its chip is
        if scene.software or isinstance(grid, SampleList):
            return b"{}"
        words = {asset.band: resampling_in_words(asset, grid, method_of(asset.band)) for asset in scene.assets}
        return json.dumps(words).encode()

    row_of: dict[bytes, int] = {}
    links = (in_words(row, m.shard.layer, m.shard.zone) for m in made for row in m.shard.scenes)
    rows = np.fromiter((row_of.setdefault(words, len(row_of)) for words in links), np.int32)
    _write(group, "link_resampling", rows, np.int32)
    _write_texts(group, "resampling", row_of, bytes)


def _write(group: zarr.Group, name: str, rows: Any, dtype: Any) -> None:
    values = np.asarray(rows, dtype=dtype)
    _created(group, name, values.shape, dtype)[...] = values


def _created(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    chunks = (max(1, min(_CHUNK, shape[0])), *shape[1:])
    names = [f"{name}_{n}" for n in ("row", "byte")[: len(shape)]]
    return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, dimension_names=names)


def _write_digests(group: zarr.Group, name: str, digests: Iterable[str]) -> None:
    raw = np.frombuffer(b"".join(map(bytes.fromhex, digests)), dtype=np.uint8)
    _write(group, name, raw.reshape(-1, hashlib.sha256().digest_size), np.uint8)


def _write_texts(group: zarr.Group, name: str, items: Iterable[T], text_of: Callable[[T], bytes]) -> None:
    """Write one text after the other; each is made twice, because together they would take much memory."""
    blobs = _Blobs(group, name, [len(text_of(item)) for item in items])
    for item in items:
        blobs.append(text_of(item))
    blobs.close()


class _Blobs:
    """Texts of many rows on their way into two arrays: of their bytes, and of the first byte of each row.

    At most the bytes of one chunk and one row are held.
    """

    def __init__(self, group: zarr.Group, name: str, sizes: Sequence[int]) -> None:
        """`sizes` are the bytes of each row."""
        first = np.cumsum([0, *sizes])
        self._array = _created(group, name, (int(first[-1]),), np.uint8)
        _write(group, f"{name}_first", first, np.int64)
        self._waiting = bytearray()
        self._written = 0

    def append(self, row: bytes) -> None:
        """Add the next row."""
        self._waiting += row
        whole = len(self._waiting) // _CHUNK * _CHUNK
        if whole:
            self._write(whole)

    def close(self) -> None:
        """Write the rest, after the last row."""
        if self._waiting:
            self._write(len(self._waiting))

    def _write(self, size: int) -> None:
        self._array[self._written : self._written + size] = np.frombuffer(bytes(self._waiting[:size]), np.uint8)
        del self._waiting[:size]
        self._written += size
