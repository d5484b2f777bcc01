"""Recipes: of each shard, the digest of all that determines its bytes; and the versions of all that computes them."""

import hashlib
import os
from collections.abc import Iterator, Set
from importlib import metadata
from itertools import pairwise

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from embedcube import registry
from embedcube.assemble import make_inputs
from embedcube.balance import Shards
from embedcube.config import Campaign, digest_of
from embedcube.device import device_class, mkl_branch
from embedcube.embed import KERNEL_VERSION
from embedcube.scene import Scene

_ROWS = 1 << 16
"""shards whose recipes are Python objects at once"""


def software_versions(device: torch.device) -> dict[str, str]:
    """Of all that may change a byte of any shard."""
    import numcodecs
    import pyproj
    import rasterio
    import zarr

    cuda = {"cudnn": str(torch.backends.cudnn.version()), "cublas": os.environ["CUBLAS_WORKSPACE_CONFIG"]}
    return (cuda if device.type == "cuda" else {}) | {
        "kernel": str(KERNEL_VERSION),
        "device": device_class(device),
        "torch": torch.__version__,
        "mkl": mkl_branch(),
        "onednn": os.environ["ONEDNN_MAX_CPU_ISA"],
        "numpy": np.__version__,
        "gdal": rasterio.__gdal_version__,
        "proj": f"{rasterio.__proj_version__} {pyproj.proj_version_str}",
        "zarr": zarr.__version__,
        "numcodecs": numcodecs.__version__,
    }


def installed(packages: Set[str]) -> dict[str, str]:
    """The versions of packages; "none" of one that is not there."""

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "none"

    return {package: version(package) for package in sorted(packages)}


def digest_as_read(scene: Scene, readers: dict[str, str]) -> bytes:
    """Of a scene, and of the versions that decode it."""
    if not scene.software:
        return bytes.fromhex(scene.digest)
    return bytes.fromhex(digest_of([scene.digest, {package: readers[package] for package in scene.software}]))


def forward_digest(campaign: Campaign, name: str, weights: str, versions: dict[str, str]) -> str:
    """Of all of *what* that may determine a layer's forward pass, but for the batch; some of it does not."""
    apart = {"batch", "chunk_windows", "encoding", "fit", "min_valid"}
    layer = {key: value for key, value in campaign.what["layers"][name].items() if key not in apart}
    plugin = registry.distribution("backbones", layer["backbone"]["name"])
    inputs = make_inputs(campaign, name)
    return digest_of([weights, versions, plugin, layer, inputs.bands, inputs.frames])


def recipes_of(
    campaign: Campaign,
    name: str,
    zone: str,
    batch: int,
    weights: str,
    program: str,
    versions: dict[str, str],
    shards: Shards,
    digests: NDArray[np.uint8],
) -> pyarrow.ChunkedArray:
    """SHA-256 of all that determines a shard's bytes, for each shard; `digests` are the scenes' (scene, 32)."""
    what = campaign.what
    # how the cube is chunked changes no shard of work
    layer = {key: value for key, value in what["layers"][name].items() if key != "chunk_windows"} | {"batch": batch}
    archives = [what["archives"][archive] for archive in layer["archives"]]
    plugins = [registry.distribution("sources", archive["source"]) for archive in archives]
    plugins.append(registry.distribution("backbones", layer["backbone"]["name"]))
    common = {
        "layer": layer,
        "archives": archives,
        "grid": campaign.grid_of(name).model_dump(mode="json"),
        "zone": zone,
        "plugins": plugins,
    }
    common |= {"weights": weights, "versions": versions} | ({"program": program} if program else {})
    base = hashlib.sha256(digest_of(common).encode())
    windows = [str(window).encode() for window in campaign.all_windows]

    def some_recipes(some: slice) -> Iterator[str]:
        first = shards.first[some.start : some.stop + 1]
        linked = memoryview(digests[shards.scenes[first[0] : first[-1]]].tobytes())
        places = (column[some].tolist() for column in (shards.t, shards.row, shards.col))
        ends = pairwise((32 * (first - first[0])).tolist())
        for t, row, col, (start, end) in zip(*places, ends, strict=True):
            recipe = base.copy()
            recipe.update(b"%b %d %d " % (windows[t], row, col))
            recipe.update(linked[start:end])
            yield recipe.hexdigest()

    starts = range(0, len(shards.t), _ROWS)
    return pyarrow.chunked_array([pyarrow.array(some_recipes(slice(start, start + _ROWS))) for start in starts])


def digest_of_recipes(recipes: list[str]) -> str:
    """SHA-256 over recipes in any order."""
    return hashlib.sha256("".join(sorted(recipes)).encode()).hexdigest()
