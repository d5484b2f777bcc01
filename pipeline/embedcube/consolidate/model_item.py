"""The STAC Item that describes the model of a layer: its input, its output and its weights (extension mlm 1.5.2)."""

import re
from typing import Any

import pystac

from embedcube.cube.reader import Cube

EXTENSION = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"


def model_item(cube: Cube, layer: str) -> pystac.Item:
    """Return the Item of a layer's model. It has no geometry, as a model may be used anywhere."""
    zone = cube.zones_of(layer)[0]
    about, what = cube.group(zone).attrs.asdict(), cube.what
    layer_what = what["layers"][layer]
    bands = [f"{name}:{band}" for name in layer_what["archives"] for band in what["archives"][name]["bands"]]
    side, cells = layer_what["chip_px"], layer_what["chip_px"] - 2 * layer_what["halo_px"]
    tasks = ["similarity-search"]
    windows = [window for zone in cube.zones_of(layer) for window in cube.windows(zone)]
    properties: dict[str, Any] = {
        "bands": [{"name": band} for band in bands],
        "mlm:name": _name(f"{cube.model(zone)} of {cube.campaign} {layer}"),
        "mlm:architecture": cube.model(zone),
        "mlm:framework": "PyTorch",
        "mlm:framework_version": cube.provenance.attributes["versions"]["torch"],
        "mlm:hyperparameters": {key: value for key, value in layer_what["backbone"].items() if key != "name"},
        "mlm:tasks": tasks,
        "mlm:input": [
            {
                "name": "chips",
                "bands": bands,
                # -1 is any number, as the extension has it
                "input": _array({"batch": -1, "time": -1, "bands": len(bands), "height": side, "width": side}),
            }
        ],
        "mlm:output": [
            {
                "name": "vectors",
                "tasks": tasks,
                "result": _array(
                    {
                        "batch": -1,
                        "height": cells // layer_what["cell_px"],
                        "width": cells // layer_what["cell_px"],
                        "embedding": about["geoemb:dimensions"],
                    }
                ),
            }
        ],
        "embedcube:weights_sha256": about["embedcube:weights_sha256"],
    }
    return pystac.Item(
        id=f"{layer}-model",
        geometry=None,
        bbox=None,
        datetime=None,
        start_datetime=min(window.start for window in windows),
        end_datetime=max(window.end for window in windows),
        # a backbone without options has no hyperparameters, and the extension wants none or some
        properties={name: value for name, value in properties.items() if value != {}},
        stac_extensions=[EXTENSION],
    )


def add_weights(model: pystac.Item, href: str) -> None:
    """Add the asset of a layer's frozen weights to the Item of its model."""
    fields = {
        "mlm:artifact_type": "safetensors.torch.save_file",
        # STAC 1.1 lets an Item list bands only where an asset does, and the extension wants them in the Item
        "bands": model.properties["bands"],
    }
    roles = ["mlm:model", "mlm:weights"]
    asset = pystac.Asset(href, title="Frozen weights", roles=roles, extra_fields=fields, media_type=_SAFETENSORS)
    model.add_asset("weights", asset)


_SAFETENSORS = "application/vnd.safetensors"


def _array(sizes: dict[str, int]) -> dict[str, Any]:
    """Shape of an array by the names of its dimensions, in the words of the extension."""
    return {"shape": list(sizes.values()), "dim_order": list(sizes), "data_type": "float32"}


def _name(words: str) -> str:
    """A name of the characters that the extension allows."""
    return re.sub(r"[^a-zA-Z0-9_.-]+", " ", words).strip(" _.-")
