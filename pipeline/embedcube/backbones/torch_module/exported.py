"""Programs of `torch.export`, read so that nothing in their file can run but a graph of ATen operators.

`torch.export.load` of torch 2.13 trusts a file. It unpickles tensors and objects marked so with `weights_only=False`,
and example inputs too where `weights_only=True` fails. It evaluates expressions of sizes as Python. It executes code
made from names in the graph and from checks of the inputs. It loads compiled libraries from the archive. So embedcube
never passes the original file to it, but a copy with the graph and the raw tensors only, in which every string of the
graph has been checked.
"""

import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

_COPIED = re.compile(
    r"models/model\.json|data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)"
    r"|archive_format|archive_version|byteorder|(\.data/)?version|\.data/serialization_id"
)
"""parts of an archive that hold the graph, raw tensors and their sizes"""

_LEFT_OUT = re.compile(r"data/sample_inputs/model\.pt|extra/.*")
"""parts that are left out: a pickle of the example inputs, and further texts"""

_NAME = re.compile(r"[\w.@:/+-]*")
"""a name: nothing in it can call a function"""

_SIZE = re.compile(
    r"(?:\b(?:Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv"
    r"|FloatTrueDiv|ModularIndexing|Where|ToFloat|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|PowByNatural"
    r"|Identity|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not)"
    r"\(|'?\b[suz]+\d+\b'?|\b(?:positive|negative|nonnegative|integer|real|precision)=|\b(?:True|False)\b"
    r"|\b\d+(?:\.\d+)?\b|[-+*/%<>&|~(), ])*"
)
"""an expression of sizes: symbols, numbers, and the functions that torch writes"""

_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")

_WITH_FILES = {"save", "from_file"}
"""operators of ATen that open files"""

_SIZE_OPERATORS = {
    *(f"_operator.{name}" for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")),
    *(f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_")),
    *(f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "ite", "sum", "sqrt")),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc")),
    "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "torch.ops.higher_order.wrap_with_autocast",
}

_SPEC_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


class Program(nn.Module):
    """An exported program with one input tensor, for batches of any length; in pieces where its batch size is fixed."""

    def __init__(self, archive: bytes) -> None:
        """Read the bytes of a file that `torch.export.save` wrote.

        Raises:
            ValueError: the bytes are not such a file, or hold more than a graph and tensors; or the program has another
                number of inputs than one, takes one chip at a time, or changes its own buffers.
        """
        super().__init__()
        exported = _loaded(_harmless(archive))
        signature = exported.graph_signature
        if len(signature.user_inputs) != 1:
            raise ValueError(
                f"the program takes {len(signature.user_inputs)} inputs, embedcube gives it one, the pixels: "
                "wrap the module in one that makes the others, and export that"
            )
        if signature.buffers_to_mutate:
            raise ValueError(
                f"the program changes its buffer {min(signature.buffers_to_mutate.values())} as it runs, so that chips "
                "depend on each other: call .eval() on the module before you export it"
            )
        (taken,) = (node for node in exported.graph.nodes if node.name == signature.user_inputs[0])
        sizes = list(taken.meta["val"].shape)
        self.takes = [size if isinstance(size, int) else None for size in sizes]
        """sizes of the input's axes; None where any size is accepted"""
        self.fewest, self._most = self.takes[0] or 2, self.takes[0] or sys.maxsize
        if self.takes[0] is None and (range_ := exported.range_constraints.get(sizes[0].node.expr)) is not None:
            self.fewest = max(self.fewest, int(range_.lower))
            self._most = int(range_.upper) if range_.upper.is_Integer else self._most
        if self._most == 1:
            raise ValueError(
                "the program takes one chip at a time, whose numbers may depend on how many threads compute it: export "
                "it with a dynamic batch dimension, torch.export.export(model, (x,), dynamic_shapes=({0: "
                "torch.export.Dim.DYNAMIC},)), and an example x of two chips"
            )
        self.program = exported.module(check_guards=False)
        for module in self.modules():
            module.training = False

    def train(self, mode: bool = True) -> "Program":
        """The program itself: it stays in the mode that it was exported in."""
        return self

    def forward(self, x: Tensor) -> Any:
        """Output for a batch, computed in as many pieces as needed; the last one is padded with zeros."""
        size = max(self.fewest, min(len(x), self._most))
        if len(x) == size:
            return self.program(x)
        padding = x.new_zeros((-len(x) % size, *x.shape[1:]))
        return _joined([self.program(piece) for piece in torch.cat([x, padding]).split(size)], len(x))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Program":
        """Move the tensors, and the device of those that the graph creates: an export names the one it was made on."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0)).device
        for module in self.modules():
            if isinstance(module, torch.fx.GraphModule):
                for node in module.graph.nodes:
                    node.args = torch.fx.node.map_aggregate(node.args, lambda a: _moved(a, device))
                    node.kwargs = torch.fx.node.map_aggregate(node.kwargs, lambda a: _moved(a, device))
                module.recompile()
        return self


def _moved(argument: Any, device: torch.device) -> Any:
    return device if isinstance(argument, torch.device) else argument


def _joined(pieces: list[Any], length: int) -> Any:
    """The outputs of several pieces, joined to those of one batch of `length` chips."""
    if isinstance(pieces[0], Tensor):
        return torch.cat(pieces)[:length]
    if isinstance(pieces[0], dict):
        return {key: _joined([piece[key] for piece in pieces], length) for key in pieces[0]}
    return [_joined(list(parts), length) for parts in zip(*pieces, strict=True)]


def _loaded(archive: BytesIO) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(archive)
    except Exception as error:  # torch may raise anything
        reason = str(error).strip().rpartition("\n")[2]
        raise ValueError(
            f"torch {torch.__version__} cannot read this program: {reason}; export it again with this version"
        ) from None


def _harmless(archive: bytes) -> BytesIO:
    """A copy of an archive without anything that could be code; a ValueError where the archive holds more than that."""
    copy = BytesIO()
    try:
        with zipfile.ZipFile(BytesIO(archive)) as whole, zipfile.ZipFile(copy, "w") as kept:
            names = {name.partition("/")[2]: name for name in whole.namelist()}
            if "models/model.json" not in names:
                raise ValueError("not the whole of an archive with one program that torch.export.save wrote")
            for name, full in sorted(names.items()):
                if _COPIED.fullmatch(name):
                    kept.writestr(f"model/{name}", _checked(name, whole.read(full)))
                elif not _LEFT_OUT.fullmatch(name):
                    raise ValueError(
                        f"it holds {name}, which is neither graph nor tensor: refused, as it might be code"
                    )
            # torch requires this file; it may be empty
            kept.writestr("model/data/sample_inputs/model.pt", b"")
    except (zipfile.BadZipFile, json.JSONDecodeError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"not a file of torch.export.save (.pt2): {error}") from None
    copy.seek(0)
    return copy


def _checked(name: str, data: bytes) -> bytes:
    """One file of an archive; a JSON file is checked, and without the parts that are not needed."""
    if not name.endswith(".json"):
        return data
    document = json.loads(data)
    if name == "models/model.json":
        document["guards_code"] = []
        _forget(document)
    for key, text in _texts(document, ""):
        if not _is_harmless(key, text):
            raise ValueError(f'its {name} says "{text}" ({key}), which is refused: it might be code')
    for key, tensor in document.get("config", {}).items():
        if tensor["use_pickle"] is not False:
            raise ValueError(f"its {key} is pickled, which is refused: it might be code; export plain tensors")
    return json.dumps(document).encode()


def _forget(part: Any) -> None:
    """Remove metadata on the origin of each node."""
    if isinstance(part, dict):
        if "metadata" in part:
            part["metadata"] = {}
        if "treespec_namedtuple_fields" in part:
            part["treespec_namedtuple_fields"] = {}
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _forget(inner)


def _texts(part: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a document, with its key."""
    if isinstance(part, str):
        yield key, part
    elif isinstance(part, dict):
        for name, inner in part.items():
            yield "a key", name
            yield from _texts(inner, name)
    elif isinstance(part, list):
        for inner in part:
            yield from _texts(inner, key)


def _is_harmless(key: str, text: str) -> bool:
    """Whether a text of the graph cannot be code."""
    if key in ("target", "as_operator"):
        return text in _SIZE_OPERATORS or _is_operator(text)
    if key == "expr_str":
        return _SIZE.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        return _is_plain(json.loads(text)[1])
    # an argument of an operator ("tanh"), used for nothing else
    return key in ("as_string", "as_strings") or _NAME.fullmatch(text) is not None


def _is_operator(target: str) -> bool:
    """Whether `target` names an operator of ATen that only computes."""
    match = _OPERATOR.fullmatch(target)
    if match is None or match[1] in _WITH_FILES:
        return False
    overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    return isinstance(overload, torch._ops.OpOverload)


def _is_plain(spec: Any) -> bool:
    """Whether inputs or outputs are nested tuples, lists and dicts only."""
    context = json.loads(spec["context"] or "null")
    plain = context is None or (isinstance(context, list) and all(isinstance(key, str) for key in context))
    return spec["type"] in _SPEC_TYPES and plain and all(map(_is_plain, spec["children_spec"]))
