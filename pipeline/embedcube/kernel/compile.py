"""A layer's forward pass, compiled ahead of time: `plan` makes one program, and every rank runs that one.

torch.compile in each rank could choose other kernels from rank to rank, and then bytes would differ. A package of
AOTInductor (torch.export, then a compiler for C++ or, on a GPU, Triton) is one file with one digest.
"""

import errno
import io
import os
import tempfile
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from embedcube.backbones.base import Chips
from embedcube.errors import RequestError
from embedcube.kernel.device import device_class
from embedcube.kernel.embed import blank_chips, in_precision
from embedcube.kernel.layer import LayerContext

_FOR_CLASS: dict[str, dict[str, Any]] = {
    "cpu-avx512": {"cpp.simdlen": 512, "cpp.march": "x86-64-v4"},
    "cpu-avx2": {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"},
}
"""Options by device class: Inductor compiles for the processor it runs on, the program must run on all of the class"""

_FOR_GPU: dict[str, Any] = {
    # otherwise kernels are loaded at their first call, when the folder that the package was unpacked into is gone
    "aot_inductor.embed_kernel_binary": True,
}

_OPTIONS: dict[str, Any] = {
    # otherwise the number of threads of `plan` is compiled in, and sums are split by it
    "cpp.threads": 1,
    # weights are laid out once, in the order that is fastest for matrix products
    "freezing": True,
}

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def compile_forward(context: LayerContext, layer: str) -> bytes:
    """The compiled forward pass for the context's batch, precision and device; the weights are included.

    Raises:
        RequestError: the module cannot be exported, or this machine has no compiler, or its class is unknown.
        OSError: the disk is full.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import InductorError
    from torch._inductor.utils import fresh_cache

    kind = device_class(context.device)
    if context.device.type == "cpu" and kind not in _FOR_CLASS:
        raise RequestError(
            f"layers.{layer}.compile: for {kind} nothing is compiled, only for {' and '.join(_FOR_CLASS)}"
        )
    options = _OPTIONS | _FOR_CLASS.get(kind, _FOR_GPU)
    package = io.BytesIO()
    try:
        blank = blank_chips(context)
        inputs = blank.x_btcyx, blank.clear_btsyx, blank.lonlat_byxn, blank.dates_tmd
        with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # torch warns about its own code
            exported = torch.export.export(_OfTensors(context).eval(), inputs, strict=False)
            # Inductor's usual cache is shared by all programs of a user, and holds pickles
            with fresh_cache(dir=folder):
                aoti_compile_and_package(exported, package_path=package, inductor_configs=options)
    except Exception as error:  # a module that cannot be exported, or a compiler, may raise anything
        # the compiler of graphs wraps the error
        within = error.inner_exception if isinstance(error, InductorError) else error
        if isinstance(within, torch.OutOfMemoryError):
            raise RequestError(
                f"layers.{layer}: a batch of {context.batch} does not fit into the device's memory; lower batch or "
                "chip_px"
            ) from error
        if isinstance(within, OSError) and within.errno in _NO_ROOM:
            raise within from None
        reason = str(within).strip().partition("\n")[0]
        raise RequestError(
            f"layers.{layer}.compile: {type(within).__name__}: {reason}. It needs a compiler of C++ where `plan` runs "
            "and a module that torch.export takes; without `compile` the layer runs as it is"
        ) from error
    return package.getvalue()


class Compiled(nn.Module):
    """A program of `compile_forward`, in place of the module that it was made from."""

    def __init__(self, program: bytes, device: torch.device) -> None:
        """Load the program, which runs code of it: `program` must be that of the plan, with its digest compared."""
        super().__init__()
        from torch._inductor import aoti_load_package

        # torch removes what it unpacks only at a normal end, and a rank may be killed
        with tempfile.TemporaryDirectory() as folder:
            elsewhere = os.environ.get("TMPDIR")
            os.environ["TMPDIR"] = folder
            try:
                # -1 is the current device
                index = int(str(device).partition(":")[2] or -1)
                self._run = aoti_load_package(io.BytesIO(program), device_index=index)
            finally:
                if elsewhere is None:
                    del os.environ["TMPDIR"]
                else:
                    os.environ["TMPDIR"] = elsewhere

    def forward(self, chips: Chips) -> Tensor:
        """The vectors of a full batch."""
        # the precision was compiled in
        with torch.autocast(chips.x_btcyx.device.type, enabled=False):
            vectors: Tensor = self._run(chips.x_btcyx, chips.clear_btsyx, chips.lonlat_byxn, chips.dates_tmd)
        return vectors


class _OfTensors(nn.Module):
    """The forward pass with one argument for each tensor: torch.export does not take `Chips`."""

    def __init__(self, context: LayerContext) -> None:
        super().__init__()
        self.module, self._context = context.module, context

    def forward(self, x_btcyx: Tensor, clear_btsyx: Tensor, lonlat_byxn: Tensor, dates_tmd: Tensor) -> Tensor:
        chips = Chips(x_btcyx=x_btcyx, clear_btsyx=clear_btsyx, lonlat_byxn=lonlat_byxn, dates_tmd=dates_tmd)
        with in_precision(self._context):
            vectors: Tensor = self.module(chips).float()
        return vectors
