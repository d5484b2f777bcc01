"""The pages that a user reads, the blocks in them, and how a test runs these as they stand there."""

import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from tests.conftest import ROOT, call_cli

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
EMBEDCUBE = ".venv/bin/embedcube"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language; of none where it is empty."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in fenced if named == language]


def in_order(page: Path) -> list[tuple[str, str]]:
    """All fenced blocks with their language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def run_line(line: str, folder: Path) -> str:
    """What a shown command of embedcube prints in `folder`, which holds `demo/`; it must succeed."""
    program, *arguments = shlex.split(line)
    assert program == EMBEDCUBE, line
    with chdir(folder):
        done = call_cli(*arguments)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def run_python(blocks: list[str], folder: Path, *, strict: bool = True) -> str:
    """What shown Python prints in `folder`, one block after the other; without a warning where it is strict."""
    command = [sys.executable, *(("-W", "error") if strict else ()), "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
