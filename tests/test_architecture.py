"""What the source itself promises: which room may import which, how long files are, how they are documented."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline" / "embedcube"

GROUND = {"errors", "grid", "windows", "timings", "progress", "machine", "printable", "zones"}
"""Single files. All else is in a room."""

ABOVE: dict[str, set[str]] = {
    "ground": set(),
    "campaign": {"ground"},
    "cube": {"ground"},
    "sources": {"ground", "campaign"},
    "backbones": {"ground", "campaign"},
    "kernel": {"ground", "campaign", "cube", "sources", "backbones"},
    "prepare": {"ground", "campaign", "cube", "sources", "backbones", "kernel"},
    "workers": {"ground", "campaign", "cube", "sources", "backbones", "kernel"},
    "testing": {"ground", "campaign", "cube", "sources", "backbones", "kernel"},
    "jobs": {"ground", "campaign", "cube", "sources", "backbones", "kernel", "prepare", "workers"},
    "consolidate": {"ground", "campaign", "cube", "sources", "backbones", "kernel", "prepare", "workers", "jobs"},
    "uses": {
        "ground",
        "campaign",
        "cube",
        "sources",
        "backbones",
        "kernel",
        "prepare",
        "workers",
        "jobs",
        "consolidate",
    },
}
ABOVE["uses"] = {*ABOVE["consolidate"], "consolidate"}
"""Each room, and what it may import. The command line (`cli`) may import everything."""

FAMILIES = {"sources": {"sentinel1", "sentinel2", "era5", "lists"}, "backbones": {"terratorch", "torch_module"}}
"""Plugin families: folders that never import each other."""

LIGHT = {
    "campaign": {"torch", "dask", "distributed", "rasterio"},
    "cube": {"torch", "dask", "distributed", "rasterio", "pydantic", "pyarrow"},
    "jobs": {"torch", "dask", "distributed", "rasterio"},
    "consolidate": {"torch", "dask", "distributed", "rasterio"},
    "uses": {"torch", "dask", "distributed", "rasterio"},
}
"""What a room must not import, directly or not, when it is imported itself."""

HEAVY_FOR_HELP = {"torch", "xarray", "zarr", "dask", "rasterio", "pyarrow"}
"""Not yet imported when `embedcube --help` prints."""

FORBIDDEN_STEMS = {"utils", "helpers", "common", "misc"}
# Names that no module may use, called or handed on.
FORBIDDEN_NAMES = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load"}
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
# Keywords that may only be given as a literal False.
FORBIDDEN_KEYWORDS = {"shell", "allow_pickle"}

FILE_LINES = 400
FUNCTION_LINES = 60
CLASS_ATTRIBUTES = 12

SCHEMAS = {
    "campaign.how": {"How"},
    "campaign.parts": {"Record"},
    "campaign.plan": {"LayerPlan"},
    "campaign.price": {"Price"},
    "campaign.scene": {"Asset", "Scene"},
    "campaign.schema": {"Layer"},
    "campaign.site": {"Site"},
    "jobs.status": {"Status"},
}
"""Schemas of files, of YAML and of `--json`, which have as many fields as these have: module, and classes."""

YAML_BLOCKS = {"Block", "PluginOptions"}
"""Base classes of the blocks of YAML files."""

T = TypeVar("T")
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
    if not call.args or not isinstance(call.args[0], ast.Constant):
        return None
    return str(call.args[0].value) if ast.unparse(call.func).endswith(("import_module", "__import__")) else None


@cache
def _as_module(target: str) -> str:
    """The module in `embedcube.grid.Grid`; `from embedcube import grid` and `... import __version__` too."""
    parts = target.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if _path(name := ".".join(parts[:length])).exists():
            return name
    return ""


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


def _against(rule: Callable[[Module], T]) -> dict[str, T]:
    """What `rule` finds in each module in which it finds something: one test for a rule lists all that is wrong."""
    return {str(module): found for module in ALL.values() if (found := rule(module))}


def _room(module: str) -> str:
    """The room of a module; "ground" for single files, empty for the package's face."""
    first = module.partition(".")[0]
    return "ground" if first in GROUND else first


def _wrong_imports(module: Module) -> list[str]:
    room, wrong = _room(module.name), []
    for name, line in module.own_imports().items():
        other = _room(name)
        if room not in ABOVE or not other:  # the command line, the package itself
            continue
        if other != room and other not in ABOVE[room]:
            wrong.append(f"line {line}: {name} ({other}) from {module} ({room})")
        elif len({_family(name), _family(module.name)} & FAMILIES.get(room, set())) == 2:
            wrong.append(f"line {line}: {name} is of another family")
    return wrong


def _family(module: str) -> str:
    """The folder, or the file, within the room."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_is_in_a_room() -> None:
    assert {name for name in ALL if _room(name) not in ABOVE.keys() | {"", "__main__", "cli"}} == set()
    stems = _against(lambda module: FORBIDDEN_STEMS & set(module.name.split(".")))
    assert stems == {}, "name a module after what it does"


def test_the_root_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10
    assert len([path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]) <= 12


def test_rooms_stand_on_each_other() -> None:
    """No circle among rooms, and nobody has to climb more than nine of them."""
    floor: dict[str, int] = {}
    for room in TopologicalSorter(ABOVE).static_order():
        floor[room] = 1 + max((floor[below] for below in ABOVE[room]), default=0)
    assert max(floor.values()) + 1 <= 9  # and the command line above them


def test_imports_point_one_way() -> None:
    assert _against(_wrong_imports) == {}


def test_no_relative_imports() -> None:
    assert _against(lambda module: [found for found in module.imports if found.target.startswith(".")]) == {}


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


def test_imported_packages_are_dependencies() -> None:
    declared, providers = _declared(), packages_distributions()

    def undeclared(module: Module) -> list[str]:
        foreign = module.foreign_imports(at_start_only=False) - sys.stdlib_module_names
        return [name for name in foreign if not {_normal(found) for found in providers.get(name, [name])} & declared]

    assert _against(undeclared) == {}


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


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_stay_light(room: str) -> None:
    def heavy(module: Module) -> dict[str, set[str]]:
        return {
            " -> ".join(way): found
            for name, way in _reached_at_start(module).items()
            if (found := ALL[name].foreign_imports() & LIGHT[room])
        }

    assert _against(lambda module: heavy(module) if _room(module.name) == room else {}) == {}


def _loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded after `code` has run in a new process."""
    program = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_command_line_starts_light() -> None:
    assert _loaded_by("import embedcube.cli.verbs") & HEAVY_FOR_HELP == set()


def _long(module: Module) -> dict[str, int]:
    """The lines of the file and of its functions, where there are too many."""
    lines = module.source.count("\n")
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in module.functions}
    too_long = {name: length for name, length in lengths.items() if length > FUNCTION_LINES}
    return too_long | ({"the file": lines} if lines > FILE_LINES else {})


def test_files_and_functions_are_short() -> None:
    assert _against(_long) == {}


def _attributes(node: ast.ClassDef) -> set[str]:
    """Names of the fields of a class, of its variables, and of what its methods store in `self`."""
    names: set[str] = set()
    for child in node.body:
        if isinstance(child, ast.AnnAssign):
            names.add(ast.unparse(child.target))
        elif isinstance(child, ast.Assign):
            names |= {ast.unparse(target) for target in child.targets}
        elif isinstance(child, FunctionNode):
            stored = [part for part in ast.walk(child) if isinstance(part, ast.Attribute)]
            names |= {
                part.attr for part in stored if isinstance(part.ctx, ast.Store) and ast.unparse(part.value) == "self"
            }
    return names


def _large_classes(module: Module) -> dict[str, int]:
    """The classes with more than CLASS_ATTRIBUTES attributes, and how many they have."""
    classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    return {node.name: count for node in classes if (count := len(_attributes(node))) > CLASS_ATTRIBUTES}


def test_classes_are_small() -> None:
    """Nothing but a schema has more than twelve attributes; a schema that has become small is no exception any more."""
    assert _against(lambda module: set(_large_classes(module))) == SCHEMAS


def _unexplained_keys(module: Module) -> list[str]:
    """Keys of YAML blocks without a docstring, which the reference of the site and its readers need."""
    keys = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & YAML_BLOCKS:
            for child, following in zip(node.body, [*node.body[1:], None], strict=True):
                documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if isinstance(child, ast.AnnAssign) and not documented:
                    keys.append(f"{node.name}.{ast.unparse(child.target)}")
    return keys


def test_every_key_of_a_yaml_file_is_explained() -> None:
    assert _against(_unexplained_keys) == {}


def _takers_of_any_keyword(module: Module) -> list[str]:
    return [
        f"line {node.lineno}: **{node.args.kwarg.arg}"
        for node in ast.walk(module.tree)
        if isinstance(node, FunctionNode | ast.Lambda) and node.args.kwarg
    ]


def test_no_function_takes_any_keyword() -> None:
    assert _against(_takers_of_any_keyword) == {}


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


def test_nothing_unsafe() -> None:
    assert _against(_unsafe) == {}


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


def test_everything_public_is_documented() -> None:
    assert _against(lambda module: list(_undocumented(module.tree, str(module)))) == {}


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f():\n    from embedcube.cli.verbs import main", "line 2: cli.verbs (cli) from sources.era5.x (sources)"),
        ("import embedcube.cube.reader as c", "line 1: cube.reader (cube) from sources.era5.x (sources)"),
        ("from embedcube.backbones import eof", "line 1: backbones.eof (backbones) from sources.era5.x (sources)"),
        ("from embedcube.sources.sentinel2 import names", "line 1: sources.sentinel2.names is of another family"),
        ("__import__('embedcube.prepare.plan')", "line 1: prepare.plan (prepare) from sources.era5.x (sources)"),
    ],
)
def test_wrong_imports_are_seen(source: str, complaint: str) -> None:
    assert _wrong_imports(Module("sources.era5.x", source)) == [complaint]


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


def test_large_classes_are_seen() -> None:
    fields = "\n".join(f"    field_{i}: int" for i in range(10))
    method = "    def method(self):\n        self.a, self.b = 1, 2\n        self.a += 1\n        other.c = 3"
    assert _large_classes(Module("grid", f"class Right:\n{fields}\n{method}\n")) == {}
    assert _large_classes(Module("grid", f"class Wrong:\n    x = 1\n{fields}\n{method}\n")) == {"Wrong": 13}


def test_keys_without_a_docstring_are_seen() -> None:
    source = 'class A(Block):\n    one: int\n    """explained"""\n    two: int = Field(2)\n    three: int\n'
    assert _unexplained_keys(Module("campaign.schema", source)) == ["A.two", "A.three"]
    assert _unexplained_keys(Module("campaign.schema", source.replace("Block", "Other"))) == []


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
    assert Module("cube.reader", source).foreign_imports() == {"numpy", "typing", "torch"}
