"""Cubes under construction: begun, taken over from a start that was interrupted, published whole or removed."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir, fsync_folder
from embedcube.errors import EmbedcubeError, StartAgain, WorkError

ABANDONED_S = 24 * 3600.0
"""Seconds without a change, after which what another start has made was left by a killed process."""


_JOURNAL = f"{TEMPORARY_PREFIX}made.jsonl"
"""Digests of objects whose chunks hold several windows: no record has them. It is removed when all else is written."""


class NotEnough(WorkError):
    """The job had too little, of memory for example. With more of it, the next start goes on from what is made."""


class TakenOver(WorkError):
    """Another consolidation has renamed the folder in which this one builds."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A cube under construction that belongs to this process."""

    path: Path
    inode: int
    """number of the folder: a folder that was made again under the same name is another one"""
    run: RunDir
    version: str

    @property
    def owned(self) -> bool:
        """Whether the folder is still there under its name, so that nobody has taken it over."""
        return _inode(self.path) == self.inode

    def check_owned(self) -> None:
        """Raise TakenOver if another consolidation has renamed the folder."""
        if not self.owned:
            new = [path for path in self.run.cubes_under_construction() if _inode(path) == self.inode]
            who = f"is now {new[0].name}" if new else "is gone"
            raise TakenOver(
                f"{self.path}: another consolidation of this campaign has taken it over, it {who}. It makes the same "
                "cube: let it end"
            )

    def publish(self, cube: Path) -> None:
        """Rename the folder to the finished cube. If another consolidation was first, with the same bytes, remove it.

        Raises:
            TakenOver: the folder is not this process's any more, and there is no cube yet.
        """
        self.check_owned()
        try:
            self.path.rename(cube)
        except OSError:
            if not cube.exists():
                self.check_owned()
                raise
            shutil.rmtree(self.path)

    # --- objects that are there already ---

    def keep_only(self, objects: Iterable[Path]) -> None:
        """Remove every file but these and the journal: what is no object is written anew, from nothing."""
        kept = {str(path) for path in objects} | {str(self.path / _JOURNAL)}
        for folder, _, names in os.walk(self.path):
            for name in names:
                if f"{folder}/{name}" not in kept:
                    Path(folder, name).unlink()

    def noted(self) -> dict[str, str]:
        """SHA-256 of objects that an earlier start has made, by their relative path. None is believed unseen."""
        found: dict[str, str] = {}
        journal = self.path / _JOURNAL
        for line in journal.read_bytes().splitlines() if journal.exists() else ():
            try:
                name, digest = json.loads(line)
                found[str(name)] = str(digest)
            except (ValueError, TypeError):
                continue  # torn by a kill or a power cut: the object is made again
        return found

    def note(self, name: str, digest: str) -> None:
        """Note the SHA-256 of an object, for the next start."""
        with (self.path / _JOURNAL).open("ab") as file:
            file.write(f"\n{json.dumps([name, digest])}\n".encode())

    def remove_temporary(self) -> None:
        """Remove the journal, and what workers that were lost have left."""
        for path in self.path.rglob(f"{TEMPORARY_PREFIX}*"):
            path.unlink()


@contextmanager
def building(run: RunDir, version: str) -> Iterator[Unfinished]:
    """The folder of a cube under construction: that of an interrupted start, if there is one, else a new one.

    Whatever interrupted the earlier start, and whether it was a job or not. Its folder is renamed: processes of it that
    still run, on a node believed to be dead, then fail. On an error the folder is kept for the next start; it is
    removed where starting again would not help, whatever the job is given.

    Raises:
        TakenOver: another consolidation has renamed the folder meanwhile.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}"
    path = run.cube_under_construction(version, owner)
    path.parent.mkdir(parents=True, exist_ok=True)
    # those that are there before this one: of two that begin at once, neither removes the other's
    others = sorted(run.cubes_under_construction(version), key=changed, reverse=True)
    if not any(_renamed(other, path) for other in others):
        path.mkdir()
    for other in others:
        remove(other, run)
    fsync_folder(path.parent)
    unfinished = Unfinished(path=path, inode=path.stat().st_ino, run=run, version=version)
    try:
        yield unfinished
    except BaseException as error:
        if not unfinished.owned:
            shutil.rmtree(path, ignore_errors=True)  # zarr makes the folders again that it writes to
            if isinstance(error, Exception) and not isinstance(error, StartAgain):
                unfinished.check_owned()
        elif isinstance(error, EmbedcubeError) and not isinstance(error, StartAgain | NotEnough):
            shutil.rmtree(path, ignore_errors=True)
        raise


def remove(folder: Path, run: RunDir) -> None:
    """Remove a folder, after a rename: a process that still builds a cube in it fails, instead of making it again."""
    doomed = run.cube_under_construction("removed", "removed")
    doomed.parent.mkdir(exist_ok=True)  # a run folder with parts alone has no folder of cubes
    if _renamed(folder, doomed):
        shutil.rmtree(doomed, ignore_errors=True)


def remove_abandoned(run: RunDir, version: str) -> None:
    """Remove unfinished cubes that no start will take over.

    Those of `version`, if its cube is finished; of other versions, those that nothing has changed for a day, since
    another consolidation may be making them at this moment.
    """
    for folder in run.cubes_under_construction():
        own = folder in run.cubes_under_construction(version)
        if (own and run.cube(version).exists()) or (not own and time.time() - changed(folder) > ABANDONED_S):
            remove(folder, run)


def changed(folder: Path) -> float:
    """Time of the last change of a folder below `folder`; 0 if it is gone."""
    newest = 0.0
    for inside, _, _ in os.walk(folder):
        try:
            newest = max(newest, Path(inside).stat().st_mtime)
        except FileNotFoundError:
            continue
    return newest


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def _renamed(folder: Path, new: Path) -> bool:
    """Whether the folder could be renamed: of two processes that try at once, one can."""
    try:
        folder.rename(new)
    except FileNotFoundError:
        return False
    return True
