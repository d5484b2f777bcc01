"""Versions of all software that may change a byte of a shard."""

import os
from collections.abc import Set
from importlib import metadata

import numpy as np
import torch

from embedcube.campaign.plan import Plan
from embedcube.kernel.device import device_class, mkl_branch
from embedcube.kernel.embed import KERNEL_VERSION


def versions_here(plan: Plan, device: torch.device) -> dict[str, str]:
    """This process's versions of everything that `plan.versions` names."""
    versions = software_versions(device)
    return versions | installed(plan.versions.keys() - versions.keys())


def software_versions(device: torch.device) -> dict[str, str]:
    """The versions that may change a byte of any shard; packages of plugins come on top (`installed`)."""
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
    """The versions of packages; "none" for one that is not installed."""

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "none"

    return {package: version(package) for package in sorted(packages)}
