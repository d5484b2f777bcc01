"""Node, Chromium and servers for the tests that drive a browser."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, made_once

SOURCE = ROOT / "pipeline" / "embedcube" / "uses" / "view" / "source"
HERE = Path(__file__).parent

_NO_NETWORK = ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")


def node_modules(factory: pytest.TempPathFactory, source: Path = SOURCE) -> Path:
    """The packages that package-lock.json of `source` names (by default those of the page), installed once.

    A test without npm or network is skipped.
    """
    if shutil.which("npm") is None:
        pytest.skip("needs node and npm")

    def install(folder: Path) -> None:
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, folder)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode and any(code in done.stderr for code in _NO_NETWORK):
            pytest.skip("npm cannot reach its registry")
        assert done.returncode == 0, done.stderr

    return made_once(factory, f"node-modules-of-{source.name}", install) / "node_modules"


def run_node(script: str, modules: Path, *arguments: str | Path, timeout_s: float = 240) -> Any:
    """Run one of the scripts beside this file; returns the JSON that it printed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium")
    done = subprocess.run(
        ["node", HERE / script, *map(str, arguments)],
        env=os.environ | {"NODE_MODULES": str(modules), "CHROMIUM": chromium},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Server:
    """A process that serves, and its address."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process, self.address = process, address

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time that it has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def viewing(*cubes: Path, decoders: Sequence[Path] = ()) -> Iterator[Server]:
    """`embedcube view` of some cubes, and of the maps of decoders, on a free port."""
    command = [Path(sys.executable).parent / "embedcube", "view", *cubes, "--port", "0", "--json"]
    for decoder in decoders:
        command += ["--decoder", decoder]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, json.loads(process.stdout.readline())["address"])
        finally:
            process.terminate()
            process.wait(timeout=30)
