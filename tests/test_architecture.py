"""What the source itself promises: which module may import which, how long it is, how it is documented."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline" / "embedcube"


class Level(Enum):
    """Who may know whom."""

    GROUND = "ground"
    VALUES = "values"
    USING = "using half"
    CONTRACTS = "plugin contracts"
    KERNELS = "kernels"
    STAGES = "stages"
    COMMANDS = "commands"


MAY_IMPORT: dict[Level, set[Level]] = {
    Level.GROUND: set(),
    Level.VALUES: {Level.GROUND},
    Level.USING: {Level.GROUND, Level.VALUES},
    Level.CONTRACTS: {Level.GROUND, Level.VALUES},
    Level.KERNELS: {Level.GROUND, Level.VALUES, Level.CONTRACTS},
    Level.STAGES: {Level.GROUND, Level.VALUES, Level.USING, Level.CONTRACTS, Level.KERNELS},
    Level.COMMANDS: {Level.GROUND, Level.VALUES, Level.USING, Level.CONTRACTS, Level.KERNELS, Level.STAGES},
}

# Every module of the package, once; a module that is not here fails.
MODULES: dict[Level, list[str]] = {
    Level.GROUND: ["", "errors", "machine", "progress", "timings", "sources", "backbones", "executors"],
    Level.VALUES: [
        "windows",
        "geojson",
        "grid",
        "scene",
        "encode",
        "blocks",
        "config",
        "campaign_file",
        "metadata",
        "rundir",
        "store",
        "site",
    ],
    Level.USING: ["cube", "find", "decode", "exchange"],
    Level.CONTRACTS: ["onto", "raster", "composite", "sources.base", "backbones.base", "registry"],
    Level.KERNELS: [
        "prefetch",
        "device",
        "energy",
        "quantise",
        "kernel",
        "sample",
        "embed",
        "compiled",
        "assemble",
        "balance",
        "cut",
        "price",
        "probe",
        "parts",
        "deaths",
        "draws",
        "budget",
        "sources.products",
        "sources.spread",
        "sources.tiff",
        "sources.stac",
        "sources.stac_api",
        "bounds",
        "sources.safe",
        "sources.safe_radar",
        "sources.stack",
        "sources.folders",
        "sources.finding",
        "sources.options",
        "sources.converted",
        "sources.netcdf3",
        "sources.sentinel1",
        "sources.sentinel1_grd",
        "sources.fields",
        "sources.sentinel2",
        "sources.sentinel2_names",
        "sources.demo",
        "sources.demo_world",
        "sources.era5",
        "sources.era5_archive",
        "sources.era5_parameters",
        "sources.lattice",
        "sources.patterns",
        "sources.steps",
        "sources.series",
        "sources.series_files",
        "sources.series_grib",
        "sources.series_xarray",
        "backbones.checkpoint",
        "backbones.tokens",
        "backbones.mosaiks",
        "backbones.presto",
        "backbones.eof",
        "backbones.terratorch",
        "backbones.terratorch_families",
        "backbones.terratorch_models",
        "backbones.terratorch_registry",
        "backbones.torch",
        "backbones.torch_outputs",
        "backbones.torch_program",
        "backbones.torch_trial",
    ],
    Level.STAGES: [
        "inventory",
        "sampling",
        "fit",
        "recipes",
        "plan",
        "agree",
        "rank",
        "rendezvous",
        "worker",
        "rechunk",
        "template",
        "provenance",
        "catalogue",
        "cluster",
        "consolidate",
        "verify",
        "profile",
        "status",
        "report",
        "testing",
        "executors.base",
        "executors.local",
        "executors.slurm",
        "submit",
        "doctor",
        "pilot",
    ],
    Level.COMMANDS: ["cli", "stages", "settle", "__main__"],
}
LEVEL_OF = {name: level for level, names in MODULES.items() for name in names}

# What a module may import of its own level.
WITHIN_LEVEL: dict[str, set[str]] = {
    "blocks": {"windows"},
    "config": {"blocks", "windows", "grid"},
    "grid": {"windows"},
    "scene": {"windows", "grid"},
    "campaign_file": {"config", "geojson"},
    "geojson": {"scene"},
    "metadata": {"windows", "grid", "encode", "config"},
    "rundir": {"config"},
    "store": {"windows", "grid", "encode"},
    "site": {"blocks", "config", "campaign_file"},
    "find": {"cube"},
    "decode": {"cube"},
    "exchange": {"cube"},
    "raster": {"onto"},
    "sources.base": {"raster", "composite"},
    "sample": {"device", "kernel"},
    "embed": {"device", "quantise", "kernel", "sample"},
    "assemble": {"kernel", "compiled"},
    "compiled": {"kernel", "embed", "device"},
    "cut": {"assemble", "balance"},
    "price": {"kernel", "embed", "balance"},
    "draws": {"kernel", "price"},
    "probe": {"kernel", "price"},
    "sources.demo": {"sources.demo_world"},
    "sources.products": {"sources.spread", "sources.tiff"},
    "sources.stac": {"sources.products"},
    "sources.stack": {"sources.netcdf3", "sources.products"},
    "sources.safe": {"sources.products"},
    "sources.folders": {"sources.products"},
    "bounds": {"assemble"},
    "sources.finding": {
        "sources.products",
        "sources.spread",
        "sources.stac",
        "sources.stac_api",
        "sources.safe",
        "sources.safe_radar",
        "sources.stack",
        "sources.folders",
    },
    "sources.safe_radar": {"sources.products"},
    "sources.sentinel2": {"sources.products", "sources.finding", "sources.options", "sources.sentinel2_names"},
    "sources.sentinel2_names": {"sources.products"},
    "sources.options": {"sources.products"},
    "sources.sentinel1": {
        "sources.converted",
        "sources.finding",
        "sources.options",
        "sources.products",
        "sources.sentinel1_grd",
    },
    "sources.sentinel1_grd": {"sources.products", "sources.safe"},
    "sources.fields": {"sources.converted", "sources.finding", "sources.options", "sources.products"},
    "backbones.terratorch": {
        "backbones.checkpoint",
        "backbones.terratorch_families",
        "backbones.terratorch_models",
        "backbones.tokens",
    },
    "backbones.terratorch_families": {
        "backbones.checkpoint",
        "backbones.terratorch_models",
        "backbones.terratorch_registry",
        "backbones.tokens",
    },
    "backbones.terratorch_registry": {"backbones.terratorch_models"},
    "backbones.presto": {"backbones.checkpoint"},
    "backbones.torch": {
        "backbones.checkpoint",
        "backbones.terratorch_models",
        "backbones.tokens",
        "backbones.torch_outputs",
        "backbones.torch_program",
        "backbones.torch_trial",
    },
    "backbones.torch_outputs": {"backbones.tokens"},
    "budget": {"parts"},
    "sampling": {"inventory"},
    "fit": {"inventory", "sampling"},
    "sources.era5": {
        "sources.era5_archive",
        "sources.era5_parameters",
        "sources.lattice",
        "sources.options",
        "sources.series",
        "sources.series_files",
        "sources.steps",
    },
    "sources.era5_archive": {
        "sources.era5_parameters",
        "sources.lattice",
        "sources.patterns",
        "sources.series",
        "sources.series_files",
        "sources.steps",
    },
    "sources.era5_parameters": {"sources.steps"},
    "sources.patterns": {"sources.series", "sources.steps"},
    "sources.series": {"sources.lattice", "sources.steps"},
    "sources.series_files": {
        "sources.netcdf3",
        "sources.products",
        "sources.series",
        "sources.series_grib",
        "sources.series_xarray",
    },
    "sources.series_grib": {"sources.lattice", "sources.series", "sources.steps"},
    "sources.series_xarray": {"sources.era5_parameters", "sources.lattice", "sources.series", "sources.steps"},
    "plan": {"recipes", "inventory", "fit"},
    "agree": {"plan", "rendezvous"},
    "rank": {"agree", "inventory", "fit", "plan", "rendezvous"},
    "worker": {"agree", "plan", "rank", "rendezvous"},
    "executors.base": {"worker"},
    "executors.local": {"worker", "executors.base"},
    "executors.slurm": {"plan", "rank", "rendezvous", "executors.base"},
    "submit": {"pilot", "plan", "executors.slurm"},
    "pilot": {"plan"},
    "doctor": {"inventory", "plan", "executors.slurm", "submit"},
    "template": {"plan"},
    "provenance": {"plan"},
    "cluster": {"executors.slurm"},
    "consolidate": {"catalogue", "cluster", "inventory", "plan", "provenance", "rechunk", "template"},
    "verify": {"recipes", "inventory", "fit", "plan", "provenance"},
    "profile": {"plan"},
    "status": {"plan", "submit", "executors.slurm"},
    "report": {"plan", "provenance", "verify"},
    "cli": {"stages", "settle"},
    "__main__": {"cli"},
}

# Imported by the using half nowhere but inside a function.
HEAVY_FOR_USERS = {"torch", "dask", "distributed", "submitit", "rasterio"}
# Not yet imported when `embedcube --help` prints.
HEAVY_FOR_HELP = {"torch", "xarray", "zarr", "dask", "rasterio", "pyarrow"}

FORBIDDEN_STEMS = {"utils", "helpers", "common", "misc"}
# Names that no module may use, called or handed on.
FORBIDDEN_NAMES = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load"}
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
# Keywords that may only be given as a literal False.
FORBIDDEN_KEYWORDS = {"shell", "allow_pickle"}

FILE_LINES = 400
FUNCTION_LINES = 60

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported thing, by its whole dotted name."""

    target: str
    line: int
    at_start: bool
    """runs when the module is imported: outside functions and outside `if TYPE_CHECKING`"""


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    """dotted, without the package: `sources.base`; empty for the package itself"""
    source: str = field(repr=False)

    def __str__(self) -> str:
        return self.name or "embedcube"

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, filename=str(self))

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, at_start=True))

    @cached_property
    def functions(self) -> list[FunctionNode]:
        return [node for node in ast.walk(self.tree) if isinstance(node, FunctionNode)]

    def own_imports(self, *, at_start_only: bool = False) -> dict[str, int]:
        """The modules of this package that it imports (`cube`, `sources.base`), each with a line."""
        return {
            _as_module(imported.target): imported.line
            for imported in self.imports
            if imported.target.partition(".")[0] == "embedcube" and (imported.at_start or not at_start_only)
        }

    def foreign_imports(self, *, at_start_only: bool = True) -> set[str]:
        """The top-level names of other packages that it imports."""
        found = {i.target.partition(".")[0] for i in self.imports if i.at_start or not at_start_only}
        return found - {"embedcube"}

    def dotted(self, node: ast.expr) -> str:
        """The whole name that an expression such as `torch.load` stands for, through import aliases."""
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}"
        return "?"

    @cached_property
    def _aliases(self) -> dict[str, str]:
        aliases: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom):
                aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return aliases


def _imports(node: ast.AST, *, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(target=alias.name, line=child.lineno, at_start=at_start)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                target = f"{'.' * child.level}{child.module or ''}.{alias.name}"
                yield Import(target=target, line=child.lineno, at_start=at_start)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(child, at_start=False)
        else:
            if isinstance(child, ast.Call) and (called := _imported_by_call(child)):
                yield Import(target=called, line=child.lineno, at_start=at_start)
            inside_function = isinstance(child, FunctionNode | ast.Lambda)
            yield from _imports(child, at_start=at_start and not inside_function)


def _imported_by_call(call: ast.Call) -> str | None:
    function = ast.unparse(call.func)
    named = call.args and isinstance(call.args[0], ast.Constant) and str(call.args[0].value)
    return named if named and function.endswith(("import_module", "__import__")) else None


def _as_module(target: str) -> str:
    """The module in `embedcube.grid.Grid`; `from embedcube import grid` and `... import __version__` too."""
    parts = target.split(".")[1:]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in LEVEL_OF or _path(name).exists():
            return name
    return "" if parts in ([], ["__version__"]) else ".".join(parts)


def _path(name: str) -> Path:
    folder = PACKAGE.joinpath(*name.split(".")) if name else PACKAGE
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _all_modules() -> list[Module]:
    modules = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        modules.append(Module(".".join(parts).removesuffix("__init__").rstrip("."), path.read_text("utf-8")))
    return modules


ALL = {module.name: module for module in _all_modules()}
PROVIDERS = packages_distributions()
each_module = pytest.mark.parametrize("module", ALL.values(), ids=str)
each_using_module = pytest.mark.parametrize(
    "module", [module for module in ALL.values() if LEVEL_OF.get(module.name) is Level.USING], ids=str
)


def _wrong_imports(module: Module) -> list[str]:
    level = LEVEL_OF.get(module.name)
    if level is None:
        return [f"{module} is in no level itself"]
    wrong = []
    for name, line in module.own_imports().items():
        if name not in LEVEL_OF:
            wrong.append(f"line {line}: {name} is in no level")
        elif LEVEL_OF[name] is level:
            if name not in WITHIN_LEVEL.get(module.name, set()):
                wrong.append(f"line {line}: {name} is of the same level ({level.value}) and not listed")
        elif LEVEL_OF[name] not in MAY_IMPORT[level]:
            wrong.append(f"line {line}: {name} ({LEVEL_OF[name].value}) from {module} ({level.value})")
    return wrong


@each_module
def test_module_is_in_the_table(module: Module) -> None:
    assert module.name in LEVEL_OF, f"give {module} a level in MODULES"
    assert not FORBIDDEN_STEMS & set(module.name.split(".")), "name a module after what it does"


def test_the_tables_hold_together() -> None:
    assert sum(map(len, MODULES.values())) == len(LEVEL_OF), "a module stands in two levels"
    upwards = list(Level)
    for level, below in MAY_IMPORT.items():
        assert below <= set(upwards[: upwards.index(level)]), f"{level} may import one above it"
    for name, others in WITHIN_LEVEL.items():
        assert {LEVEL_OF[other] for other in others} == {LEVEL_OF[name]}, f"{name} lists another level"


@each_module
def test_imports_point_one_way(module: Module) -> None:
    assert _wrong_imports(module) == []


@each_module
def test_no_relative_imports(module: Module) -> None:
    assert [found for found in module.imports if found.target.startswith(".")] == []


def test_no_import_cycles() -> None:
    graph = {name: set(module.own_imports()) for name, module in ALL.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(str(name) for name in error.args[1]))


def _declared() -> set[str]:
    """The distributions that users get: core dependencies and extras, without the developers' own."""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [needs for extra, needs in project["optional-dependencies"].items() if extra != "dev"]
    needed = [*project["dependencies"], *chain.from_iterable(extras)]
    return {_normal(re.split(r"[^\w.-]", need)[0]) for need in needed}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@each_module
def test_imported_packages_are_dependencies(module: Module) -> None:
    foreign = module.foreign_imports(at_start_only=False) - sys.stdlib_module_names
    providers = {name: {_normal(found) for found in PROVIDERS.get(name, [name])} for name in foreign}
    declared = _declared()
    assert [name for name, distributions in providers.items() if not distributions & declared] == []


def _reached_at_start(start: Module) -> dict[str, list[str]]:
    """Every module that importing `start` runs, with the chain of imports that leads there."""
    ways = {start.name: [str(start)]}
    waiting = [start.name]
    while waiting:
        name = waiting.pop()
        own = ALL[name].own_imports(at_start_only=True)
        # Importing a.b.c runs a and a.b first.
        parents = {".".join(full.split(".")[:i]) for full in [name, *own] for i in range(full.count(".") + 1)}
        for following in ((own.keys() | parents) & ALL.keys()) - ways.keys():
            ways[following] = [*ways[name], following or "embedcube"]
            waiting.append(following)
    return ways


@each_using_module
def test_using_half_stays_light(module: Module) -> None:
    heavy = {
        " -> ".join(way): found
        for name, way in _reached_at_start(module).items()
        if (found := ALL[name].foreign_imports() & HEAVY_FOR_USERS)
    }
    assert heavy == {}


@pytest.mark.skipif("cli" not in ALL, reason="there is no command line yet")
def test_the_command_line_starts_light() -> None:
    code = "import json, sys, embedcube.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) & HEAVY_FOR_HELP == set()


@each_module
def test_files_and_functions_are_short(module: Module) -> None:
    lines = module.source.count("\n")
    assert lines <= FILE_LINES
    lengths = [(f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in module.functions]
    assert [(name, length) for name, length in lengths if length > FUNCTION_LINES] == []


@each_module
def test_no_function_takes_any_keyword(module: Module) -> None:
    takers = [
        f"line {node.lineno}: **{node.args.kwarg.arg}"
        for node in ast.walk(module.tree)
        if isinstance(node, FunctionNode | ast.Lambda) and node.args.kwarg
    ]
    assert takers == []


def _unsafe(module: Module) -> list[str]:
    """Whatever could run bytes that an input brought along."""
    foreign = [(found.target, found.line) for found in module.imports]
    found = [f"line {line}: {name}" for name, line in foreign if name.partition(".")[0] in FORBIDDEN_IMPORTS]
    checked_loads = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
            if module.dotted(node.func) == "torch.load" and keywords.get("weights_only") == "True":
                checked_loads.add(node.func)
            for keyword in keywords.keys() & FORBIDDEN_KEYWORDS:
                if keywords[keyword] != "False":
                    found.append(f"line {node.lineno}: {keyword}=")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = module.dotted(node)
            if name in FORBIDDEN_NAMES or (name == "torch.load" and node not in checked_loads):
                found.append(f"line {node.lineno}: {name}")
    return found


@each_module
def test_nothing_unsafe(module: Module) -> None:
    assert _unsafe(module) == []


def _undocumented(node: ast.Module | ast.ClassDef, within: str) -> Iterator[str]:
    if ast.get_docstring(node) is None:
        yield within
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _undocumented(child, f"{within}.{child.name}")
        elif isinstance(child, FunctionNode) and not child.name.startswith("_"):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in child.decorator_list}
            if ast.get_docstring(child) is None and not decorators & {"overload", "setter", "deleter"}:
                yield f"{within}.{child.name}"


@each_module
def test_everything_public_is_documented(module: Module) -> None:
    assert list(_undocumented(module.tree, str(module))) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f():\n    from embedcube.cli import main", "line 2: cli (commands) from grid (values)"),
        ("import embedcube.cube as c", "line 1: cube (using half) from grid (values)"),
        ("from embedcube import store", "line 1: store is of the same level (values) and not listed"),
        ("from embedcube.nowhere import x", "line 1: nowhere.x is in no level"),
        ("__import__('embedcube.plan')", "line 1: plan (stages) from grid (values)"),
    ],
)
def test_wrong_imports_are_seen(source: str, complaint: str) -> None:
    assert _wrong_imports(Module("grid", source)) == [complaint]


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(p)",
        "import torch as t\nt.load(p, weights_only=flag)",
        "from torch import load\nfrom functools import partial\npartial(load, weights_only=True)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "from subprocess import run\nrun('ls', shell=True)",
        "def f():\n    import pickle",
        "eval('1')",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
    ],
)
def test_unsafe_code_is_seen(source: str) -> None:
    assert len(_unsafe(Module("grid", source))) == 1


def test_safe_code_passes() -> None:
    source = "import torch, yaml\ntorch.load(p, weights_only=True)\nmodel.eval()\nyaml.safe_load(text)"
    assert _unsafe(Module("grid", source)) == []


def test_imports_at_start_are_told_from_late_ones() -> None:
    source = """
import numpy
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import dask
try:
    import torch
except ImportError:
    pass
class Late:
    def method(self):
        import rasterio
"""
    assert Module("cube", source).foreign_imports() == {"numpy", "typing", "torch"}
