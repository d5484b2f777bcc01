"""The device of a rank: exact arithmetic, copies to the device, and the time of each step on its own clock.

On a GPU no call here waits: copies run beside the computing, work is queued, and the GPU's clock takes the times.
On a CPU the same calls do the same at once.
"""

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from embedcube.machine import processor
from embedcube.timings import Timings

_CPU = processor()


# MKL splits sums by the number of threads unless this is set before its first call (docs/adr/0004)
os.environ.setdefault("MKL_CBWR", "AVX512,STRICT" if "avx512f" in _CPU.get("flags", "") else "AVX2,STRICT")


# oneDNN's kernels for AMX round differently from those for AVX-512, and some are wrong in bfloat16 (the same ADR)
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")


# without this the order of cuBLAS's sums may change from run to run (CUDA Toolkit, cuBLAS, Results Reproducibility)
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


_copying: dict[torch.device, torch.cuda.Stream] = {}
"""for each GPU, the stream in which copies run beside its computing"""


def device_class(device: torch.device) -> str:
    """The device class, such as `cpu-avx512` or `cuda-sm80`: bytes are equal within one class."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda-sm{major}{minor}"
    return f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"


def mkl_branch() -> str:
    """The code path that MKL takes: the one in MKL_CBWR, but on processors not made by Intel it chooses its own."""
    fields = ("vendor_id", "cpu family", "model")
    own = "" if _heeds_mkl_cbwr() else f" on {' '.join(_CPU.get(field, '?') for field in fields)}"
    return os.environ["MKL_CBWR"] + own


def device_memory(device: torch.device) -> float:
    """Bytes of a GPU that a process may fill: nine tenths, as libraries take the rest; 0 for a CPU."""
    return 0.9 * torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0.0


def exact_arithmetic(threads: int) -> None:
    """Set this process up so that one device class always gives the same bytes."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    # use_deterministic_algorithms would also import the compiler, which takes 2.6 s
    torch.set_deterministic_debug_mode("error")
    # in deterministic mode torch fills all memory that it allocates; nothing here reads memory before it is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    exact_products()


def exact_products() -> None:
    """Give MKL one thread where it ignores MKL_CBWR, as it splits sums by the number of threads (docs/adr/0004).

    The setting holds for the calling thread: every thread that multiplies matrices calls this.
    """
    if torch.backends.mkl.is_available() and not _heeds_mkl_cbwr() and torch.get_num_threads() > 1:
        # torch sets it too, at the first get_num_threads of a thread: this must come later
        _torch_library().MKL_Set_Num_Threads_Local(1)


def _heeds_mkl_cbwr() -> bool:
    return _CPU.get("vendor_id") == "GenuineIntel"


@cache
def _torch_library() -> ctypes.CDLL:
    """The library that holds MKL, or loads it."""
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def host_empty(shape: tuple[int, ...], dtype: DTypeLike, device: torch.device) -> NDArray[Any]:
    """Uninitialised array; for a GPU in pinned memory, so that it can be copied while the host goes on."""
    if device.type == "cpu":
        return np.empty(shape, dtype)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.asarray(torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape))


class OnDevice:
    """Arrays that are being copied to a device; the copy begins at once, in any thread."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], device: torch.device) -> None:
        """Begin to copy `arrays`, which must not be changed from now on; for a CPU they are used without a copy."""
        # the source must live until the copy is done
        self._host = dict(arrays)
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cpu":
            self._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return
        stream = _copying.setdefault(device, torch.cuda.Stream(device))
        with torch.cuda.stream(stream):
            self._tensors = {
                name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in arrays.items()
            }
            self._arrived = stream.record_event()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The arrays as tensors. Work that this thread queues from now on waits for the copy; the thread does not."""
        if self._arrived is not None:
            computing = torch.cuda.current_stream(next(iter(self._tensors.values())).device)
            computing.wait_event(self._arrived)
            for tensor in self._tensors.values():
                # the copying stream owns their memory, and must not reuse it before this stream has used it
                tensor.record_stream(computing)
        return self._tensors

    def free(self) -> None:
        """Give the memory back; `tensors` must not be called after this."""
        self._host, self._tensors = {}, {}


class DeviceTimings:
    """Seconds of steps on the clock of the device: a GPU has only queued a step when its call returns."""

    def __init__(self, timings: Timings, device: torch.device) -> None:
        """The seconds are added to `timings`, at the latest in `done`."""
        self._timings, self._device = timings, device
        self._queued: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the work that is queued in the block."""
        if self._device.type == "cpu":
            with self._timings.step(name):
                yield
            return
        stream = torch.cuda.current_stream(self._device)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(stream)
        yield
        end.record(stream)
        self._queued.append((name, start, end))

    def done(self, wall_s: float) -> None:
        """Call this when all steps are done and the host has waited for them; `wall_s` is their whole time in seconds.

        The rest of `wall_s` is time between steps, in which the host was too slow to queue the next: `wait`. Gaps
        within a step count as its seconds.
        """
        if self._device.type == "cpu":
            return
        # the host has waited for the last copy, not for the event behind it
        self._queued[-1][2].synchronize()
        seconds = [(name, start.elapsed_time(end) / 1000) for name, start, end in self._queued]
        for name, step_s in seconds:
            self._timings.add(name, step_s)
        self._timings.add("wait", max(0.0, wall_s - sum(step_s for _, step_s in seconds)))
