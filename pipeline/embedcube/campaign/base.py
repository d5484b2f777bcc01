"""`how.base`: the earlier run folder or cube from which unchanged shards are taken."""

from dataclasses import dataclass
from pathlib import Path

from embedcube.campaign.run_folder import RunDir
from embedcube.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Base:
    """An earlier run folder, an earlier cube, or both."""

    path: Path
    """as it is named"""
    run: RunDir | None
    """the run folder; None where a cube stands alone"""
    cube: Path | None
    """the cube: the one that is named, or the newest of the run folder; None where there is none yet"""
    has_parts: bool
    """whether the parts of the run folder are meant, too: it is named itself, not one of its cubes"""


def open_base(path: Path) -> Base:
    """What a path names: a run folder, a cube in one, or a cube alone.

    Raises:
        RequestError: it is none of them.
    """
    if not path.exists():
        raise RequestError(f"{path}: there is no such folder; name a run folder or a cube that is here")
    real = path.resolve()
    if (real / "zarr.json").is_file():
        folder = RunDir(real.parents[1]) if real.parent.name == "cubes" else None
        inside = folder is not None and folder.campaign.is_file()
        return Base(path=path, run=folder if inside else None, cube=real, has_parts=False)
    run = RunDir(real)
    if not (run.campaign.is_file() and (run.plan_summary.is_file() or run.cubes.is_dir())):
        raise RequestError(
            f"{path}: neither a run folder (with {run.campaign.name} and {run.plan_summary.name}) nor a cube (with "
            "zarr.json)"
        )
    cube = run.newest_cube.resolve() if run.newest_cube.exists() else None
    return Base(path=path, run=run, cube=cube, has_parts=True)


def base_run(path: Path | None, own: RunDir) -> RunDir | None:
    """The run folder of a base, where it is another than `own`: for its weights and its last plan."""
    if path is None:
        return None
    run = open_base(path).run
    return None if run is None or run.root == own.root.resolve() else run
