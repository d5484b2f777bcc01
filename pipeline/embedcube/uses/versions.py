"""versions: which versions of a cube a run folder holds, why they differ, which is the current one, what can go."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import scan_documents
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.reasons import Account, compared
from embedcube.campaign.run_folder import RunDir, point_symlink
from embedcube.consolidate.accounts import UNREADABLE, account_of_cube
from embedcube.consolidate.unfinished import ABANDONED_S, changed, remove
from embedcube.consolidate.verify import verify_cube, wrong
from embedcube.cube.preview_store import SUFFIX
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.printable import printable
from embedcube.progress import Progress
from embedcube.workers.rounds import rounds

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a cube."""

    name: str
    made: str
    """time in UTC (ISO 8601)"""
    current: bool
    """whether `cube.zarr` is a link to it"""
    shards: int
    bytes: int
    """of all of its files, STAC and preview included"""
    freed_bytes: int
    """bytes that would be free without it: other files are shared with parts or other versions"""
    freed_files: int
    why: dict[str, int] = field(default_factory=dict)
    """number of shards by the reason why they differ from the version before; empty for the first"""
    damaged: str = ""
    """why it cannot be read, in words; empty where it can"""


def versions_of(run: RunDir) -> list[Version]:
    """The versions in a run folder, in the order in which they were made."""
    found: list[Version] = []
    before = None
    for path in _cubes(run):
        freed = Freed.of([*_files_of(run, path.stem)])
        shards, damaged, after = 0, "", None
        try:
            cube = Cube(path)
            shards, after = len(cube.provenance.places), _account(cube)
        except UNREADABLE as error:
            damaged = f"{type(error).__name__}: {error}"
        found.append(
            Version(
                name=path.stem,
                made=datetime.fromtimestamp(_made(path), UTC).isoformat(timespec="seconds"),
                current=_is_current(run, path),
                shards=shards,
                bytes=freed.all_bytes,
                freed_bytes=freed.bytes,
                freed_files=freed.files,
                why=_why(before, after) if found else {},
                damaged=damaged,
            )
        )
        before = after
    return found


def compare(run: RunDir, first: str, second: str) -> dict[str, dict[str, int]]:
    """For each layer, the number of shards by the reason why they differ between two versions.

    Raises:
        RequestError: there is no such version, or one was made by an earlier version of embedcube.
    """
    earlier, later = (account_of_cube(Cube(run.cube(version_named(run, name)))) for name in (first, second))
    found: dict[str, Counter[str]] = {}
    for one in compared(earlier, later):
        shard = one.later or one.earlier
        assert shard is not None
        found.setdefault(shard.layer, Counter())[one.reason.label] += 1
    return {layer: dict(counts) for layer, counts in found.items()}


def version_named(run: RunDir, name: str) -> str:
    """The version of this name, or the only one whose name begins so; a RequestError lists those that there are."""
    names, asked = [path.stem for path in _cubes(run)], name.removesuffix(".zarr")
    fitting = [asked] if asked in names else [one for one in names if one.startswith(asked)]
    if len(fitting) != 1:
        count = f"{len(fitting)} versions begin with" if fitting else "there is no version"
        raise RequestError(f"{run.cubes}: {count} {name}; it has {', '.join(names) or 'none'}")
    return fitting[0]


def promote(run: RunDir, name: str, progress: Progress, *, unverified: bool = False) -> str:
    """Make a version the current one, by one rename of the link; returns its name.

    Before that all of it is read and verified, as far as the cube alone allows, unless `unverified` is true.

    Raises:
        RequestError: there is no such version.
        WorkError: something is wrong with it.
    """
    version = version_named(run, name)
    path = run.cube(version)
    if not unverified and (findings := wrong(verify_cube(path, progress))):
        raise WorkError(
            f"{path}: {len(findings)} findings, the first: {findings[0]}; the current version stays. "
            "--unverified makes it the current one nevertheless"
        )
    point_symlink(run.newest_cube, path)
    return version


@dataclass(frozen=True, kw_only=True)
class Freed:
    """What the removal of files frees."""

    bytes: int
    """of files that no other name is left of"""
    files: int
    """names that are removed"""
    all_bytes: int
    """of all of them, shared ones included"""

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Freed":
        """What is free when all of these files are removed, and no others."""
        names: Counter[tuple[int, int]] = Counter()
        facts: dict[tuple[int, int], os.stat_result] = {}
        for path in paths:
            facts_of = path.lstat()
            key = facts_of.st_dev, facts_of.st_ino
            names[key] += 1
            facts[key] = facts_of
        last = [facts[key] for key, count in names.items() if count == facts[key].st_nlink]
        return cls(
            bytes=sum(one.st_size for one in last),
            files=names.total(),
            all_bytes=sum(one.st_size for one in facts.values()),
        )


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed, or would be."""

    versions: tuple[str, ...]
    parts: int
    """folders of parts"""
    freed: Freed
    newer: tuple[str, ...] = ()
    """versions that stay because they are newer than the current one, where none was named"""


def prune(run: RunDir, names: Sequence[str], *, parts: bool, dry_run: bool) -> Pruned:
    """Remove versions with all that lies beside them, by default those before the current one; and what nobody needs.

    That is: cubes that were never finished, a day after their last change, and with `parts` the parts none of whose
    shards the plan of the run folder has, in any round. Files that something else shares stay there: only names go.

    Raises:
        RequestError: a version is the current one, or there is none of that name; none is named and none is the
            current one; or, with `parts`, the plan is not that of the campaign.
    """
    versions, newer = ([version_named(run, name) for name in names], ()) if names else _before_current(run)
    if current := [version for version in versions if _is_current(run, run.cube(version))]:
        raise RequestError(f"{current[0]} is the current version; `embedcube versions` promotes another one first")
    folders = [path for version in versions for path in _beside(run, version)]
    since = time.time() - ABANDONED_S
    folders += [path for path in run.cubes_under_construction() if changed(path) < since]
    of_parts = [*_unplanned(run)] if parts else []
    freed = Freed.of(file for folder in (*folders, *of_parts) for file in _files(folder))
    if not dry_run:
        for path in (*folders, *of_parts):
            if path.is_dir() and not path.is_symlink():
                remove(path, run)
            else:
                path.unlink(missing_ok=True)
    return Pruned(versions=tuple(versions), parts=len(of_parts), freed=freed, newer=newer)


def _before_current(run: RunDir) -> tuple[list[str], tuple[str, ...]]:
    """The versions that were made before the current one; and those made later, perhaps a moment ago.

    Raises:
        RequestError: there are versions, and none is the current one.
    """
    cubes = _cubes(run)
    current = next((_made(path) for path in cubes if _is_current(run, path)), None)
    if cubes and current is None:
        raise RequestError(
            f"{run.newest_cube}: leads to no version, so nobody knows which one is to stay; `embedcube versions` "
            "promotes one first, or name those that are to go"
        )
    others = [path for path in cubes if not _is_current(run, path)]
    before = [path.stem for path in others if _made(path) < (current or 0.0)]
    return before, tuple(path.stem for path in others if path.stem not in before)


def _unplanned(run: RunDir) -> Iterator[Path]:
    """Folders of parts whose records are of other plans; those without a record may be of a rank at work."""
    campaign = load_campaign(run.campaign, mounted=False)
    plan = read_plan(campaign, run)
    planned = {*read_recipes(run, plan)}
    for one in rounds(campaign, run, plan):  # `verify` derives the verdicts of each from its records
        planned |= one.recipes
    needed: dict[Path, bool] = {}
    for part, record in scan_documents(run):
        needed[part] = needed.get(part, False) or record["recipe"] in planned
    yield from (part for part, is_needed in needed.items() if not is_needed)


def _cubes(run: RunDir) -> list[Path]:
    """The finished cubes, in the order in which they were made."""
    return sorted((path for path in run.cubes.glob("[!.]*.zarr") if (path / "provenance").is_dir()), key=_made)


def _made(cube: Path) -> float:
    """Time at which it was finished; of a damaged one that of its folder."""
    written = cube / "provenance" / "zarr.json"
    return (written if written.exists() else cube).stat().st_mtime


def _is_current(run: RunDir, cube: Path) -> bool:
    return run.newest_cube.exists() and run.newest_cube.resolve() == cube.resolve()


def _beside(run: RunDir, version: str) -> list[Path]:
    """The cube, and what embedcube writes beside it: STAC, preview, vector index. Other files are somebody's own."""
    known = [run.cube(version), run.catalogue(version), *(run.cubes / f"{version}{end}" for end in (SUFFIX, ".find"))]
    return [path for path in known if path.is_symlink() or path.exists()]


def _files_of(run: RunDir, version: str) -> Iterator[Path]:
    for path in _beside(run, version):
        yield from _files(path)


def _files(path: Path) -> Iterator[Path]:
    """All files below a folder, or the file itself."""
    if not path.is_dir():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _account(cube: Cube) -> Account | None:
    try:
        account = account_of_cube(cube)
        return replace(account, shards=[*account.shards])  # compared twice
    except UNREADABLE as error:
        log.warning("%s: not compared with other versions: %s", cube.address, printable(error))
        return None


def _why(before: Account | None, after: Account | None) -> dict[str, int]:
    """Number of shards by reason."""
    if before is None or after is None:
        return {}
    return dict(Counter(one.reason.label for one in compared(before, after)))
