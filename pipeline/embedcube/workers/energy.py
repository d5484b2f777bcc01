"""What a GPU has used, by its own meter (NVML, nvmlDeviceGetTotalEnergyConsumption; the extra `energy`).

A CPU's meter (RAPL) is for the whole socket and, on most machines, for administrators alone: none is read.
"""

from typing import Any

import torch


class EnergyMeter:
    """The meter of one device; a rank has its GPU for itself."""

    def __init__(self, device: torch.device) -> None:
        """Begins to count now; a device without a meter that may be read is no error."""
        self._nvml, self._handle = _opened(device)
        self._before_j = self._total_j()

    def joules(self) -> float | None:
        """Used since this was asked last; None where nothing tells."""
        now_j = self._total_j()
        if now_j is None or self._before_j is None:
            return None
        used_j, self._before_j = now_j - self._before_j, now_j
        return used_j

    def _total_j(self) -> float | None:
        if self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError:  # GPUs older than Volta have no meter
            return None


def _opened(device: torch.device) -> tuple[Any, Any]:
    """NVML and the handle of a GPU in it: by UUID, as CUDA_VISIBLE_DEVICES renumbers."""
    if device.type != "cuda":
        return None, None
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return None, None
