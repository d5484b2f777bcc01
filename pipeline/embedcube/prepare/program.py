"""The compiled forward pass of a layer: taken from the run folder or the base, or made once."""

import hashlib
import logging
from dataclasses import dataclass

from embedcube.campaign.readable import read_code
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.errors import RequestError
from embedcube.kernel.compile import compile_forward
from embedcube.kernel.layer import LayerContext
from embedcube.prepare.last_plan import layers_of_last_plans

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Program:
    """The compiled forward pass of a layer; empty where the layer is not compiled."""

    data: bytes = b""
    compiled_for: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the file; empty where there is none."""
        return hashlib.sha256(self.data).hexdigest() if self.data else ""


def program_of(run: RunDir, base: RunDir | None, name: str, context: LayerContext, compiled_for: str) -> Program:
    """The existing program, or a new one: compiled again it might differ, and so would every recipe.

    Raises:
        RequestError: the file of the existing program was changed; or as `compile_forward` says.
    """
    _take_from_base(run, base, name, compiled_for)
    made = run.programs(name, compiled_for)
    # of two that were made at the same time, the one that the last plan names
    last_plan = next(iter(layers_of_last_plans(run, base, name)), {})
    last = run.program(name, compiled_for, last_plan.get("program", ""))
    for path in [last] if last in made else made[:1]:
        program = Program(data=path.read_bytes(), compiled_for=compiled_for)
        if path != run.program(name, compiled_for, program.digest):
            raise RequestError(
                f"{path} has been changed: its SHA-256 is {program.digest}, its name says otherwise; restore it, or "
                "remove it, and the layer is compiled again"
            )
        return program
    program = Program(data=compile_forward(context, name), compiled_for=compiled_for)
    write_atomically(run.program(name, compiled_for, program.digest), program.data)
    return program


def _take_from_base(run: RunDir, base: RunDir | None, name: str, compiled_for: str) -> None:
    """Copy the programs of the base for the same layer, where the run has none; never one of another user."""
    if base is None or run.programs(name, compiled_for):
        return
    for path in base.programs(name, compiled_for):
        if (data := read_code(path)) is None:
            log.warning(
                "layers.%s: compiled again, with other recipes: %s belongs to another user, and a compiled program is "
                "code; if you trust it, copy it into %s and plan again",
                name, path, run.weights_folder,
            )  # fmt: skip
        else:
            write_atomically(run.weights_folder / path.name, data)
