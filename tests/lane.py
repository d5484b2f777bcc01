"""Run the tests that need no torch with other versions: `python -m tests.lane oldest` or `newest`.

The versions of constraints.txt are those that the other tests run with. Here `oldest` has each dependency at the
lower bound of pyproject.toml, and `newest` has whatever was released last, on a newer Python where there is one.
Both read the cube of a demo with Sentinel-2 alone, which the tested versions have written.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("tests/ground", "tests/campaign", "tests/cube")
TOOLS = (
    "pytest", "hypothesis", "jsonschema", "psutil", "tensorstore", "odc-geo", "rioxarray", "compliance-checker",
    "zarrs",
)  # fmt: skip


def dependencies() -> list[str]:
    """Requirements of the package, torch apart, and of cubes on other machines."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["remote"]]
    return [line for line in needed if not line.startswith("torch")]


def newer_python() -> Path | None:
    """The newest CPython on the path or of pyenv that is newer than this one."""
    folders = [*map(Path, os.environ["PATH"].split(os.pathsep)), *Path.home().glob(".pyenv/versions/3.*/bin")]
    found: dict[tuple[int, ...], Path] = {}
    for python in (path for folder in folders for path in folder.glob("python3.*")):
        if re.fullmatch(r"python3\.\d+", python.name):
            asked = (python, "-c", "import sys; print(*sys.version_info[:2])")
            answer = subprocess.run(asked, capture_output=True, text=True, check=False)
            if answer.returncode == 0:  # a shim of pyenv may stand for nothing
                found[tuple(map(int, answer.stdout.split()))] = python
    newest = max(found, default=(0,))
    return found[newest] if newest > sys.version_info[:2] else None


def main(lane: str) -> int:
    """Install and run; returns the exit code of pytest."""
    if lane == "oldest":
        python: Path | None = Path(sys.executable)
        requirements = [requirement.replace(">=", "==") for requirement in dependencies()]
    else:
        python = newer_python()
        requirements = ["--upgrade", *(re.split("[>=]", requirement)[0] for requirement in dependencies())]
    if python is None:
        print(f"{lane:11} skipped: no Python newer than {sys.version_info.major}.{sys.version_info.minor} is here")
        return 0
    folder = ROOT / f".venv-{lane}"
    own = folder / "bin" / "python"
    print(f"{lane:11} {' '.join(ROOMS)} with {python}", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip: list[str | Path] = [own, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *requirements, *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "pipeline"), "EMBEDCUBE_DEMO": str(ROOT / "build" / "demo")}
    # old versions beside new ones of what they need themselves give warnings that no user can act on
    warnings = ["-W", "default"] if lane == "oldest" else []
    pytest: list[str | Path] = [own, "-m", "pytest", "--no-header", "--quiet", "-p", "no:cacheprovider", *warnings]
    return subprocess.run([*pytest, "-m", "not slow", *ROOMS], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
