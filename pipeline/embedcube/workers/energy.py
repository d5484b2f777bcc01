"""Energy of a GPU, from its own meter (NVML, nvmlDeviceGetTotalEnergyConsumption; the extra `energy`).

A CPU's meter (RAPL) counts the whole socket and, on most machines, only administrators may read it: it is not used.
"""

from typing import Any

import torch


class EnergyMeter:
    """The energy meter of one device; no other rank uses this GPU."""

    def __init__(self, device: torch.device) -> None:
        """Begins to count now; a device without a readable meter is no error."""
        self._nvml, self._handle = _opened(device)
        self._before_j = self._total_j()

    def joules(self) -> float | None:
        """Joules used since the last call; None where there is no readable meter."""
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
    """NVML and its handle of the GPU, found by UUID, as CUDA_VISIBLE_DEVICES renumbers GPUs; None twice without."""
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
