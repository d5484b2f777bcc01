"""One seed: a clean archive, one damaged file, and what comes of reading it."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, get_args

import yaml
from tests.fuzz.formats import FORMATS
from tests.fuzz.inputs import MEMORY_GB, Format
from tests.fuzz.mutations import damaged
from tests.fuzz.reading import Outcome, Reading, When, load_plugins, open_here, outcome_of, prepare, reference_of
from tests.fuzz.sandbox import Limits, run_apart
from tests.fuzz.weather import load_definitions

LIMITS = Limits(time_s=30, memory_bytes=int(MEMORY_GB * 1e9))
"""of one input. The slowest clean one takes a second"""

_WITH_A_PROCESS = Limits(time_s=300, memory_bytes=LIMITS.memory_bytes)
"""of one input where `index` opens files in another process, as it does"""

_SETTING_UP = Limits(time_s=300, memory_bytes=4 << 30)

_SHARES = (5, 3, 2)
"""of the inputs, for each `When`"""

_SPARED = "of window 0"
"""the pixels that a damaged file does not feed"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of the results."""

    format: str
    seed: int
    archive: str
    """which of the format's archives"""
    file: str
    when: When
    damage: str
    outcome: Outcome
    words: str
    stack: str
    seconds: float
    peak_mib: int

    def __str__(self) -> str:
        return f"{self.format} {self.seed} ({self.archive}, {self.file}, {self.when}; {self.damage}): {self.words}"


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A clean archive that was read once."""

    campaign_file: Path
    files: tuple[str, ...]
    clean: Reading


class Bench:
    """Tries seeds of all formats in a folder; each archive is written once, when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._prepared: dict[tuple[str, str], _Prepared] = {}
        load_plugins()

    def tried(self, format_name: str, seed: int) -> Result:
        """The result of a seed."""
        made, random = FORMATS[format_name], Random(f"{format_name} {seed}")
        archive = random.choice(sorted(made.writers))
        prepared = self._of(made, archive)
        (when,) = random.choices(get_args(When), _SHARES)
        file = random.choice(prepared.files)
        path = prepared.campaign_file.parent / file
        clean = path.read_bytes()
        data, said = damaged(random, clean, made.mutations(path), made.structure(clean))

        def attempt() -> dict[str, Any]:
            return outcome_of(
                prepared.clean, prepared.campaign_file, when, lambda: _replace(path, data), spared=(_SPARED,)
            )

        def attempt_here() -> dict[str, Any]:
            open_here()
            return attempt()

        with _restored(path, clean):
            end = run_apart(attempt_here, LIMITS)
        if end.death in ("crash", "hang"):
            # the file may have ended its decoder, which is not in the process of `index`
            with _restored(path, clean):
                end = run_apart(attempt, _WITH_A_PROCESS)
        answer = end.answer or {"outcome": end.death, "words": end.words.partition("\n")[0], "stack": end.words}
        return Result(
            format=format_name, seed=seed, archive=archive, file=file, when=when, damage=said[:200],
            seconds=round(end.seconds, 2), peak_mib=end.peak_bytes >> 20, **answer,
        )  # fmt: skip

    def _of(self, made: Format, archive: str) -> _Prepared:
        key = (made.name, archive)
        if key not in self._prepared:
            folder = self._folder / f"{made.name}-{sorted(made.writers).index(archive)}"
            end = run_apart(lambda: _set_up(made, archive, folder), _SETTING_UP)
            if end.death:
                raise RuntimeError(f"{made.name}, {archive}: its clean archive cannot be read: {end.words}")
            _import(end.answer["modules"])
            if "eccodes" in sys.modules:
                load_definitions()
            self._prepared[key] = _Prepared(
                campaign_file=folder / "campaign.yaml",
                files=tuple(end.answer["files"]),
                clean=Reading(**end.answer["clean"]),
            )
        return self._prepared[key]


def _set_up(made: Format, archive: str, folder: Path) -> dict[str, Any]:
    """Write an archive and read it once: what any damaged one is compared with."""
    folder.mkdir(parents=True)
    written = made.writers[archive](folder)
    campaign_file = folder / "campaign.yaml"
    campaign_file.write_text(yaml.safe_dump(written.campaign()))
    prepare(campaign_file)
    clean = reference_of(campaign_file)
    if any(clean["scenes"].values()) or len(clean["scenes"]) != 2 or len(clean["windows"]) != 2:
        raise RuntimeError(f"the clean archive is not read as it should: {json.dumps(clean)}")
    return {"files": written.files, "clean": clean, "modules": list(sys.modules)}


def _import(modules: list[str]) -> None:
    """Import what reading has imported, in its order, so that no later process has to do it again."""
    for name in modules:
        if name not in sys.modules and not name.startswith("__"):
            with suppress(ImportError):
                import_module(name)


def _replace(path: Path, data: bytes) -> None:
    """Another file under the same name, as damage by a copy is."""
    path.unlink()
    path.write_bytes(data)


@contextmanager
def _restored(path: Path, clean: bytes) -> Iterator[None]:
    """Put the clean bytes back, with the time that the file had."""
    status = path.stat()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(clean)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def to_line(result: Result) -> str:
    """A line of JSON, with a newline."""
    return json.dumps(asdict(result)) + "\n"


def from_line(line: str) -> Result:
    """The inverse of `to_line`."""
    return Result(**json.loads(line))
