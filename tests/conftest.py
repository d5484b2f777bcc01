"""What all tests share: the command line as a user runs it, the demo archive, and a finished run of it."""

import contextlib
import faulthandler
import fcntl
import functools
import gc
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before NumPy and torch are loaded: several processes with a thread for each core each would wait for one another, at
# twice the CPU time. Ranks, and the tests that try other numbers of threads, say how many they take.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))
# Where more threads than cores compute, those that wait for one another must not do so in a loop: three times the CPU.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

# ruff: noqa: E402
import pytest
import typer.main
import typer.testing
import yaml

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record, Stored, scan_records
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.cli.verbs import app, main
from embedcube.consolidate.stored import StoredReader
from embedcube.workers.starting import servers_kept

if TYPE_CHECKING:
    import xarray

ROOT = Path(__file__).parents[1]
"""The checkout."""

REAL_DATA = Path(os.environ.get("EMBEDCUBE_REAL_DATA", ROOT.parent / "shared" / "data"))
"""Real scenes that are not part of the repository."""

PLUGINS = Path(__file__).parent / "plugins"
"""A folder with an installed plugin: put on PYTHONPATH, its entry points are found by every process."""


sys.path.insert(0, str(PLUGINS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))


TORCH = importlib.util.find_spec("torch") is not None
"""False under `tests/lane.py`, which tries the rooms that need no torch with other versions."""

# The commands are made once, and not for each of a thousand calls of the command line in this process.
for module, name in ((typer.main, "get_command"), (typer.testing, "_get_command")):
    setattr(module, name, functools.cache(getattr(module, name)))

# Hundreds of processes import the package. Each would compile it anew, which takes a second, if none kept the result.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

COVERAGE = ROOT / ".coverage.json"
"""Lines that ran, file by file: written where pytest is called with `--cov-report=json:.coverage.json`."""


SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
"""This is one of several test processes."""


TOGETHER = {"slurm": "the cluster", "docs": "the whole demo", "testing": "the whole demo"}
"""Rooms whose tests stay in one process, and what they share: another process would only wait for it"""

FIRST = (
    "slurm",
    "docs",
    "testing",
    "fuzz",
    "chaos",
    "consolidate",
    "promises",
    "workers",
    "browser",
    "kernel",
    "prepare",
    "sources",
)
"""Order of the rooms among several processes. The cluster mostly waits, while the others compute. Those of the whole
demo write it; fuzz and chaos need none of it. Then come those whose files take long, so that at the end short ones are
left for whoever is free."""


def room_of(test: str) -> str:
    """The folder in tests/ of a test, by its id."""
    return test.removeprefix("tests/").partition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests in one process, as they share what its fixtures make."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(room_of(nodeid), nodeid.partition("::")[0])

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests; skip what this machine cannot show, and say why."""
    if SEVERAL:
        items.sort(key=lambda item: FIRST.index(room) if (room := room_of(item.nodeid)) in FIRST else len(FIRST))
    else:  # the cluster comes last, and is up no longer than its tests need it
        items.sort(key=lambda item: item.get_closest_marker("slurm") is not None)
    if not REAL_DATA.is_dir():
        for item in items:
            if item.get_closest_marker("realdata"):
                item.add_marker(pytest.mark.skip(reason=f"no real data in {REAL_DATA}"))


def pytest_collection_finish() -> None:
    """Let no collection of garbage look again at what is imported by now: it stays, and is a million objects."""
    gc.collect()
    gc.freeze()


def skip_without_torch() -> Generator[None]:
    """Body of a hook around a step of a test: where torch is not installed, a test that needs it is skipped."""
    try:
        return (yield)
    except Exception as error:
        if TORCH or not _for_want_of_torch(error):
            raise
        pytest.skip("needs torch")


def _for_want_of_torch(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that torch is not installed."""
    if error is None or (isinstance(error, ModuleNotFoundError) and error.name == "torch"):
        return error is not None
    return _for_want_of_torch(error.__cause__)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """Skip a test whose fixtures need torch."""
    return (yield from skip_without_torch())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Skip a test that needs torch."""
    return (yield from skip_without_torch())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the coverage of each room, where it was measured."""
    if not terminalreporter.config.getoption("cov_source", None) or not COVERAGE.exists():
        return
    lines: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for name, file in json.loads(COVERAGE.read_text())["files"].items():
        inside = Path(name).relative_to("pipeline/embedcube").parts
        for room in ((inside[0] if len(inside) > 1 else "ground"), "all"):
            lines[room] += file["summary"]["num_statements"]
            covered[room] += file["summary"]["covered_lines"]
    terminalreporter.section("coverage of the rooms (lines that ran in the tests' own processes)")
    for room, count in sorted(lines.items(), key=lambda pair: (pair[0] == "all", pair[0])):
        terminalreporter.line(f"{room:12} {covered[room]:6} of {count:6} lines {100 * covered[room] / count:5.1f} %")


@pytest.fixture(scope="session", autouse=True)
def one_fork_server() -> Iterator[None]:
    """The ranks of all campaigns that a test process runs itself come from one fork server: one import of torch."""
    with servers_kept():
        yield


@contextlib.contextmanager
def plain_environment() -> Iterator[pytest.MonkeyPatch]:
    """The environment without the name of the test, which would ask for another fork server in each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)
        yield patch


def run_cli(*arguments: str | Path, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `embedcube` as a user does, in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if name not in THREADS}
    return subprocess.run(
        [Path(sys.executable).parent / "embedcube", *map(str, arguments)],
        env=plain | (environment or {}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def call_cli(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `embedcube` as `run_cli` does, but in this process, which has paid for importing torch already."""
    out, err = io.StringIO(), io.StringIO()
    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in caught}
    code: int | str | None = 0
    with plain_environment() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["embedcube", *map(str, arguments)])
        patch.setattr(faulthandler, "register", lambda *_: None)  # it needs a real file
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if not TORCH and "No module named 'torch'" in err.getvalue():
        pytest.skip("needs torch")
    return subprocess.CompletedProcess(sys.argv, int(code or 0), out.getvalue(), err.getvalue())


def change_plan(run: RunDir, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite plan.json, with a right checksum, after `change` has edited the parsed document in place."""
    document = read_sealed(run.plan_summary, "plan")
    change(document)
    write_sealed(run.plan_summary, document)


def change_rows(run: RunDir, change: Callable[[Any], Any]) -> None:
    """Rewrite plan.parquet as `change` makes it of its table, and its digest in plan.json."""
    from pyarrow import parquet

    parquet.write_table(change(parquet.read_table(run.plan)), run.plan)
    digest = hashlib.sha256(run.plan.read_bytes()).hexdigest()
    change_plan(run, lambda document: document["files"].update({run.plan.name: digest}))


@functools.cache
def _name_in(text: str) -> str:
    """Name of the campaign that a file describes; it is asked for thousands of times."""
    return str(yaml.load(text, Loader=yaml.CSafeLoader)["campaign"])


@dataclass(frozen=True)
class Campaign:
    """A campaign file and the run folder that it produces."""

    file: Path

    @property
    def run(self) -> RunDir:
        """The run folder."""
        return RunDir(self.file.parent / "runs" / _name_in(self.file.read_text()))

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Rewrite the file after `change` has edited the parsed document in place."""
        document = self._document()
        change(document)
        self.file.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))

    def _document(self) -> Any:
        # libyaml takes a tenth of what the loader in Python does
        return yaml.load(self.file.read_text(), Loader=yaml.CSafeLoader)

    def cli(self, verb: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """Run a verb on the file; it must succeed. Returns what it printed.

        It runs in this process, which has paid for importing torch already, unless it needs another environment.
        """
        if environment is None:
            with plain_environment():
                result = typer.testing.CliRunner().invoke(app, [verb, str(self.file), *arguments])
            if result.exception is not None:
                raise result.exception
            return result.stdout
        done = run_cli(verb, self.file, *arguments, environment=environment)
        assert done.returncode == 0, f"{verb}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def real_campaign(file: Path, folder: Path, patch: pytest.MonkeyPatch) -> Campaign:
    """A campaign of `configs/campaigns` over the real data, copied into a folder of its own, not run yet."""
    patch.setenv("EMBEDCUBE_REAL_DATA", str(REAL_DATA.resolve()))
    campaign = Campaign(folder / file.name)
    shutil.copy(file, campaign.file)
    campaign.change(lambda document: document["how"].update(runs="runs"))
    return campaign


def cube_bytes(cube: Path, *, provenance: bool = False) -> dict[str, str]:
    """SHA-256 of every file of a cube by its relative path; without `provenance/` unless asked."""
    cube = cube.resolve()
    return {
        str(path.relative_to(cube)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cube.rglob("*"))
        if path.is_file() and (provenance or path.relative_to(cube).parts[0] != "provenance")
    }


def cells_of_shards(cube: Path, zone: str) -> tuple[slice, slice]:
    """Rows and columns of the cells of all shards: arrays begin on the border of a block, further out."""
    from embedcube.cube.reader import Cube

    opened = Cube(cube)
    side, places = opened.shard_cells(zone), [place[2:] for place in opened.provenance.places if place[0] == zone]
    y, x = (slice(min(along) * side, (max(along) + 1) * side) for along in zip(*places, strict=True))
    return y, x


def in_shards(cube: Path, zone: str) -> "xarray.Dataset":
    """The arrays of a zone in the cells of its shards, by xarray."""
    import xarray

    with xarray.open_datatree(cube, engine="zarr") as tree:
        cells = dict(zip(("y", "x"), cells_of_shards(cube, zone), strict=True))
        return tree[zone].to_dataset().isel(cells).load()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Folder that `make` fills in the first process that asks for it; the other test processes use the same one."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # a worker's own folder lies in the one that all share
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def demo_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the demo with Sentinel-2 alone, written once. Do not change anything in it: copy."""
    if finished := os.environ.get("EMBEDCUBE_DEMO"):
        return Path(finished)
    from embedcube.testing.demo import write_demo

    return made_once(tmp_path_factory, "demo", lambda folder: write_demo(folder, only="sentinel2"))


def demo_in(folder: Path, demo_archive: Path) -> Campaign:
    """A fresh campaign on the shared demo archive; nothing has been run yet."""
    campaign = Campaign(folder / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)

    def change(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(demo_archive / "archive" / "sentinel2")
        document["how"] = {"ranks": 1, "threads": 1}  # a rank is two seconds of importing torch

    campaign.change(change)
    return campaign


SOUND_PLACE: dict[str, Any] = {"bbox": [400_000, 5_637_200, 403_000, 5_640_000], "crs": "EPSG:32632"}
"""Region of the demo with one shard in each window and no torn file, so that one round embeds it"""


@pytest.fixture
def demo(demo_archive: Path, tmp_path: Path) -> Campaign:
    """A fresh campaign on the shared demo archive; nothing has been run yet."""
    return demo_in(tmp_path, demo_archive)


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory, demo_archive: Path) -> Campaign:
    """The demo with Sentinel-2 alone, finished. Do not change anything in it: copy."""
    campaign = Campaign(demo_archive / "campaign.yaml")
    if "EMBEDCUBE_DEMO" in os.environ:
        return campaign
    made_once(tmp_path_factory, "finished-demo", lambda _: campaign.cli("run"))
    return campaign


@pytest.fixture(scope="session")
def two_zones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cube over the border of two UTM zones, made by hand (tests/cube/two_zones.py). Do not change it: copy."""
    from tests.cube.two_zones import write_two_zones

    return made_once(tmp_path_factory, "two_zones", lambda folder: write_two_zones(folder / "cube.zarr")) / "cube.zarr"


@pytest.fixture(scope="session")
def whole_demo(tmp_path_factory: pytest.TempPathFactory, demo_archive: Path) -> Campaign:
    """The whole demo, finished, as `make quickstart` leaves it. Do not change anything in it: copy."""
    from embedcube.testing.demo import KINDS, SEED, WRITERS, campaign_text

    def make(folder: Path) -> None:
        archive = folder / "archive"
        archive.mkdir(parents=True)
        (archive / "sentinel2").symlink_to(demo_archive / "archive" / "sentinel2")
        for kind in KINDS:
            if kind != "sentinel2":
                WRITERS[kind](archive / kind, SEED)
        (folder / "campaign.yaml").write_text(campaign_text())
        Campaign(folder / "campaign.yaml").cli("run", "--ranks", "1")

    return Campaign(made_once(tmp_path_factory, "whole-demo", make) / "campaign.yaml")


def read_stored(part: Path, stored: Stored) -> bytes:
    """The bytes that a record of a part names, compared with what it says of them."""
    with StoredReader() as reader:
        return reader.read(part, stored)


def planned_records(campaign: Campaign) -> list[Record]:
    """The records of the shards as they are now: not those that were embedded before a scene was found broken."""
    plan = read_plan(load_campaign(campaign.file, mounted=False), campaign.run)
    recipes = {shard.recipe for group in read_shards(campaign.run, plan) for shard in group}
    return [record for _, record in scan_records(campaign.run) if record.recipe in recipes]


@pytest.fixture
def finished(finished_demo: Campaign, demo_archive: Path, tmp_path: Path) -> Campaign:
    """A copy of the finished demo, of real files, on the shared archive."""
    campaign = demo_in(tmp_path, demo_archive)
    shutil.copytree(finished_demo.run.root, campaign.run.root, symlinks=True)
    return campaign


@pytest.fixture
def embedded(finished: Campaign) -> Campaign:
    """The demo with a record for every shard, and without a cube."""
    shutil.rmtree(finished.run.cubes)
    finished.run.newest_cube.unlink()
    return finished
