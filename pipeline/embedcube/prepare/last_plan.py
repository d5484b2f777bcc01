"""What a new plan keeps of the last one: measured again it might differ, and every shard would be embedded again."""

from typing import Any

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import read_sealed
from embedcube.errors import RequestError


def batch_of_last_plan(run: RunDir, base: RunDir | None, name: str, batch_for: str) -> int:
    """The batch of the last plan, or of the base's, if it was measured for the same weights, software and layer.

    Otherwise 0.
    """
    for layer in layers_of_last_plans(run, base, name):
        if layer.get("batch_for") == batch_for:
            return int(layer["batch"])
    return 0


def layers_of_last_plans(run: RunDir, base: RunDir | None, name: str) -> list[dict[str, Any]]:
    """The part of plan.json about a layer, of the run's last plan and of the base's, as far as there are any."""
    found = []
    for folder in (run, base):
        try:
            found += [read_sealed(folder.plan_summary, "plan")["layers"][name]] if folder else []
        except (FileNotFoundError, RequestError, KeyError):
            continue  # no plan, a damaged one, or one without the layer
    return found
