"""Alone: no code is reached from data, and no server.

Shown here: nothing in the package evaluates text or unpickles what it reads. Elsewhere: a program with code in it is
refused (tests/backbones/test_torch.py), an asset on another machine is a verdict and is not asked for
(tests/sources/test_stac_api.py, test_bad_input.py), `consolidate` opens no dashboard (tests/cli/test_cli.py), and no
process outlives its parent (test_2_may_run_twice.py). Not yet shown: that every port has a secret, and that no
credential is written anywhere.
"""

import ast
from pathlib import Path

import pytest
from tests.conftest import ROOT

PACKAGE = ROOT / "pipeline" / "embedcube"
UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
EVALUATING = {
    "eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "torch.jit.load", "torch.export.load",
}  # fmt: skip
GUARDED = {"backbones/torch_module/exported.py": ["torch.export.load"]}
"""Modules that look for code in the file themselves, before they load it."""


def reaching(source: str) -> list[str]:
    """Each way from data to code in a module: imports that unpickle, built-ins that evaluate, loads without a guard."""
    ways = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            ways += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            ways.append(str(node.module))
        elif isinstance(node, ast.Call):
            called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in EVALUATING:
                ways.append(called)
            if called == "torch.load" and keywords.get("weights_only") != "True":
                ways.append("torch.load without weights_only=True")
            if keywords.get("allow_pickle") == "True":
                ways.append(f"{called} with allow_pickle=True")
    return ways


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_code_is_reached_from_data(path: Path) -> None:
    assert reaching(path.read_text()) == GUARDED.get(str(path.relative_to(PACKAGE)), [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_every_way_is_seen(source: str) -> None:
    assert reaching(source)
