"""`reproduce`: make one shard of a cube again, from what the cube says of itself and the archive, and compare.

The shard is computed in this process by the one kernel. Nothing is written.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.readable import read_code
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.verdicts import Reason
from embedcube.consolidate.rebuilt import Rebuilt, rebuild
from embedcube.cube.encoding import decode
from embedcube.cube.lineage import place_of_shard
from embedcube.cube.provenance import arrays_in
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.printable import listed
from embedcube.uses.diff import cosines

if TYPE_CHECKING:
    from embedcube.campaign.plan import Shard
    from embedcube.kernel.embed import EncodedShard
    from embedcube.kernel.layer import LayerContext


@dataclass(frozen=True, kw_only=True)
class Here:
    """Where things lie on this machine."""

    archives: Mapping[str, Path] = field(default_factory=dict)
    """path of an archive, as a campaign has it, by name; of others that of the run folder around the cube"""
    links: Mapping[str, str] = field(default_factory=dict)
    """what the recorded paths of files begin with, and what to write instead"""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """weights file of a layer, by name; by default that in the cube or in the run folder around it"""
    device: Literal["cpu", "cuda"] | None = None
    """by default that of the record"""
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class ArrayAgain:
    """One array of a shard that was made again."""

    name: str
    equal: bool
    """whether the bytes are those of the cube"""
    cells: int = 0
    """cells whose stored numbers differ"""
    of_cells: int = 0
    furthest: float = 0.0
    """largest difference between two stored numbers; of a vector, between two decoded ones"""
    least_cosine: float | None = None
    """least cosine between two vectors of a cell; None for other arrays, and where no cell differs"""

    def __str__(self) -> str:
        if self.equal:
            return "equal, byte for byte"
        if not self.cells:
            return "the same numbers, in other bytes"
        cosine = "" if self.least_cosine is None else f", cosine at least {self.least_cosine:.6f}"
        return f"differs in {self.cells} of {self.of_cells} cells, by up to {self.furthest:.6g}{cosine}"


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A shard that was made again."""

    shard: str
    recipe: str
    scenes: tuple[str, ...]
    """that were read"""
    left_out: tuple[str, ...]
    """scenes that could not be read when the shard was made, and were not read now"""
    weights: str
    """where they were found"""
    arrays: tuple[ArrayAgain, ...]
    versions: dict[str, tuple[str, str]]
    """what is installed here in another version: the recorded one, and this one"""
    inputs: tuple[str, ...]
    """files that have other bytes than the cube says"""

    @property
    def equal(self) -> bool:
        """Whether all bytes are those of the cube."""
        return all(array.equal for array in self.arrays)

    def document(self) -> dict[str, Any]:
        """What `reproduce --json` prints."""
        return asdict(self) | {"equal": self.equal}

    def lines(self) -> Iterator[str]:
        """What `reproduce` prints."""
        yield f"shard       {self.shard}, recipe {self.recipe[:12]}"
        count = f"{len(self.scenes)} scene{'s' if len(self.scenes) != 1 else ''}"
        yield f"made from   {count}; weights of {self.weights}"
        if self.left_out:
            yield f"left out    {listed(self.left_out)}, as when it was made"
        for what in self.inputs:
            yield f"input       {what}"
        for name, (then, now) in self.versions.items():
            yield f"version     {name} {now} here, {then} when it was made"
        for array in self.arrays:
            yield f"{array.name:<12}{array}"


def reproduce(cube: Cube, asked: str, here: Here) -> Reproduced:
    """Make a shard again and compare it with the cube.

    Raises:
        RequestError: the cube has no such shard or does not say enough, an archive or weights are not on this machine,
            or a plugin is not installed.
        OSError: a scene could not be read.
    """
    import torch

    from embedcube.kernel.device import exact_arithmetic
    from embedcube.kernel.embed import run_shard
    from embedcube.kernel.versions import installed, software_versions
    from embedcube.sources.reader import RasterReader

    zone, t, iy, ix = place_of_shard(cube.provenance, asked)
    said, row = rebuild(cube), cube.provenance.shard(zone, t, iy, ix)
    record = cube.provenance.record(row)
    campaign = _campaign_here(cube, said, here, zone.split("/")[0])
    shard = said.shard((zone, t, iy, ix), cube.provenance.array("shard_recipe")[row], cube.provenance.links(row)[0])
    scenes = [_moved(said.scenes[row], here.links) for row in shard.scenes]
    reasons = {
        one["scene_digest"]: Reason(words=one["reason"], asks=one.get("asks", False)) for one in record["quarantined"]
    }
    out = {row: reasons[said.scenes[row].digest] for row in shard.scenes if said.scenes[row].digest in reasons}
    inputs = [
        words
        for row, scene in zip(shard.scenes, scenes, strict=True)
        if row not in out
        for words in _other_bytes(campaign, scene)
    ]
    device = torch.device(here.device or ("cuda" if record["device"].startswith("cuda") else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"{shard} was made on {record['device']}, here is no GPU; --device cpu gives other bytes")
    exact_arithmetic(here.threads)
    versions = software_versions(device)
    versions |= installed(said.versions.keys() - versions.keys())
    context, origin = _context(cube, said, campaign, shard, here, device)
    reader = RasterReader(here.threads)
    try:
        again = run_shard(shard, scenes, context, reader, out)
    finally:
        reader.close()
    names = {row: f"{said.scenes[row].archive}/{said.scenes[row].id}" for row in shard.scenes}
    return Reproduced(
        shard=str(shard),
        recipe=shard.recipe,
        scenes=tuple(names[row] for row in shard.scenes if row not in out),
        left_out=tuple(names[row] for row in out),
        weights=origin,
        arrays=tuple(_compared(cube, shard, again, record)),
        versions={
            name: (then, versions[name]) for name, then in sorted(said.versions.items()) if versions[name] != then
        },
        inputs=tuple(inputs),
    )


def run_folder_around(cube: Path) -> RunDir | None:
    """The run folder whose cube this is; None where the cube lies elsewhere."""
    run = RunDir(cube.resolve().parent.parent)
    return run if run.campaign.is_file() and run.cubes == cube.resolve().parent else None


def _campaign_here(cube: Cube, said: Rebuilt, here: Here, layer: str) -> Campaign:
    """The campaign of the cube, with the paths that the layer's archives have on this machine."""
    from embedcube.campaign.load import load_campaign
    from embedcube.campaign.plugins import refuse_unknown_plugins

    paths, names = dict(here.archives), said.campaign.layers[layer].archives
    if unknown := sorted(paths.keys() - said.campaign.archives.keys()):
        raise RequestError(f"--archive {unknown[0]}: the cube has {listed(said.campaign.archives)}")
    if cube.is_local and (run := run_folder_around(cube.path)) is not None and not paths.keys() >= set(names):
        recorded = load_campaign(run.campaign, mounted=False).archives
        paths = {name: recorded[name].path for name in names if name in recorded} | paths
    for name in names:
        if name not in paths:
            raise RequestError(f"where is the archive {name}? A cube does not say: --archive {name}=FOLDER")
        if not paths[name].exists():
            raise RequestError(f"{paths[name]}: the archive {name} is not there; say where: --archive {name}=FOLDER")
    archives = {
        name: block.model_copy(update={"path": paths[name].absolute()} if name in paths else {})
        for name, block in said.campaign.archives.items()
    }
    campaign = said.campaign.model_copy(update={"archives": archives})
    refuse_unknown_plugins(campaign)
    return campaign


def _moved(scene: Scene, links: Mapping[str, str]) -> Scene:
    """The scene with the paths of its files where these are now; the longest beginning counts."""

    def path_of(asset: Asset) -> str:
        for start in sorted(links, key=len, reverse=True):
            if asset.path.startswith(start):
                return links[start] + asset.path[len(start) :]
        return asset.path

    return replace(scene, assets=tuple(replace(asset, path=path_of(asset)) for asset in scene.assets))


def _other_bytes(campaign: Campaign, scene: Scene) -> Iterator[str]:
    """What is not as the cube says of the files of a scene, where their digests are over all bytes."""
    from embedcube.sources.changed import compare_file

    root = campaign.archives[scene.archive].root
    for path, asset in {root / asset.path: asset for asset in scene.assets}.items():
        if not path.exists():
            yield f"{scene.archive}/{scene.id}: there is no {path}"
        elif path.is_file() and (words := compare_file(path, asset)):
            yield f"{scene.archive}/{scene.id}: {asset.path} has other bytes ({words})"


def _context(
    cube: Cube, said: Rebuilt, campaign: Campaign, shard: "Shard", here: Here, device: Any
) -> "tuple[LayerContext, str]":
    """The layer as the ranks had it, and where its weights were found."""
    from embedcube.backbones.weights import parse_weights
    from embedcube.kernel.load import load_context

    layer = said.layers[shard.layer]
    data, origin = _weights(cube, shard.layer, layer.weights, here)
    weights = parse_weights(data, campaign, shard.layer, origin)
    program = _program(cube, shard.layer, layer.program) if layer.program else b""
    return load_context(
        campaign, shard.layer, [shard.zone], weights, device, layer.batch, program, layer.samples
    ), origin


def _weights(cube: Cube, layer: str, digest: str, here: Here) -> tuple[bytes, str]:
    """The bytes of the weights file with this digest, and where it was found."""
    if layer in here.weights:
        candidates = [here.weights[layer]]
    elif (kept := cube.provenance.weights(layer)) is not None:
        return kept, "the cube"
    else:
        run = run_folder_around(cube.path) if cube.is_local else None
        candidates = [run.weights(layer)] if run is not None else []
    for path in candidates:
        if path.is_file():
            data = path.read_bytes()
            if (found := hashlib.sha256(data).hexdigest()) == digest:
                return data, str(path)
            raise RequestError(f"{path}: its SHA-256 is {found[:12]}, the weights of {layer} have {digest[:12]}")
    raise RequestError(
        f"the weights of {layer} are not in the cube, as they were not fitted for it: name the file with the SHA-256 "
        f"{digest[:12]}..., --weights {layer}=FILE"
    )


def _program(cube: Cube, layer: str, digest: str) -> bytes:
    """The compiled forward pass of a layer, from the run folder around the cube: loading runs it, so it is compared."""
    run = run_folder_around(cube.path) if cube.is_local else None
    for path in run.programs(layer, "*") if run is not None else []:
        data = read_code(path)
        if data is None:
            raise RequestError(
                f"{path}: belongs to another user, and a compiled program is code that would run as you; if you trust "
                "it, copy the run folder and reproduce the cube there"
            )
        if hashlib.sha256(data).hexdigest() == digest:
            return data
    raise RequestError(
        f"{layer} was computed by a compiled program ({digest[:12]}), which is only in the run folder: reproduce the "
        "cube there"
    )


def _compared(cube: Cube, shard: "Shard", again: "EncodedShard", record: dict[str, Any]) -> Iterator[ArrayAgain]:
    """Compare each array of a shard with the cube's: first the bytes, then, where these differ, the numbers."""
    zone, place = f"{shard.layer}/{shard.zone}", (shard.t, shard.iy, shard.ix)
    recorded = {one["array"]: one["sha256"] for one in arrays_in(record)}
    arrays = again.cells.arrays
    side = arrays["status"].shape[0]
    window = (shard.t, *(slice(i * side, (i + 1) * side) for i in (shard.iy, shard.ix)))
    stored = {name: np.asarray(cube.array(zone, name)[window]) for name in arrays}
    for name, data in again.arrays.items():
        equal = hashlib.sha256(data or b"").hexdigest() == recorded[name]
        if equal and cube.is_local and cube.as_recorded(zone):
            equal = cube.objects(zone, name).member(place) == data
        elif equal:
            equal = _same(stored[name], arrays[name])
        if equal:
            yield ArrayAgain(name=name, equal=True)
        elif name == "embedding":
            yield _vectors(name, *(decode(one[name], one.get("scale"), cube.offset(zone)) for one in (stored, arrays)))
        else:
            yield _numbers(name, stored[name], arrays[name])


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _numbers(name: str, then: NDArray[Any], now: NDArray[Any]) -> ArrayAgain:
    a, b = then.astype(np.float64), now.astype(np.float64)
    differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
    off = np.abs(a - b)[differs & np.isfinite(a) & np.isfinite(b)]
    return ArrayAgain(
        name=name, equal=False, cells=int(differs.sum()), of_cells=a.size, furthest=float(off.max(initial=0.0))
    )


def _vectors(name: str, then: NDArray[np.float32], now: NDArray[np.float32]) -> ArrayAgain:
    a, b = then.astype(np.float64), now.astype(np.float64)
    differs = ((a != b) & ~(np.isnan(a) & np.isnan(b))).any(axis=-1)
    both = differs & np.isfinite(a).all(axis=-1) & np.isfinite(b).all(axis=-1)
    cosine = cosines(then[both], now[both])
    return ArrayAgain(
        name=name, equal=False, cells=int(differs.sum()), of_cells=differs.size,
        furthest=float(np.abs(a - b)[both].max(initial=0.0)),
        least_cosine=float(np.nanmin(cosine)) if np.isfinite(cosine).any() else None,
    )  # fmt: skip


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """The values of an option that is written NAME=VALUE; a RequestError shows how."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise RequestError(f"{option} {text}: write it as {option} NAME=VALUE")
        found[name] = value
    return found
