"""What some shards have cost: devices, time, bytes, energy."""

from collections.abc import Sequence
from typing import Any

from embedcube.campaign.parts import Record


def receipt(records: Sequence[Record]) -> dict[str, Any]:
    """Devices, time, bytes and energy of the shards, whichever run made them; no energy where a device had no meter."""
    used_j = [record.energy_j for record in records if record.energy_j is not None]
    return {
        "devices": sorted({record.device for record in records}),
        "device_s": round(sum(record.seconds.get("forward", 0.0) for record in records), 3),
        "read_bytes": sum(record.read_bytes for record in records),
        "written_bytes": sum(stored.size for record in records for stored in record.arrays),
        "energy_kwh": round(sum(used_j) / 3.6e6, 9) if used_j and len(used_j) == len(records) else None,
    }
