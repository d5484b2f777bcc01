"""Multi-year Sentinel and ERA5 archives turned into one chunked Zarr cube of AI embeddings.

The public face: open a cube, load a campaign, run it.

    cube = embedcube.open_cube("cube.zarr")
    campaign = embedcube.Campaign.load("campaign.yaml")
    cube = embedcube.run(campaign)

Each name is imported when it is first used, so that `import embedcube` costs next to nothing.
To read the code, start at `embedcube.kernel.embed`: the one function that a laptop, a Slurm task and a test all call.
"""

from importlib import import_module

TYPE_CHECKING = False
# type checkers take this name for true; importing `typing` would cost more than all the rest here
if TYPE_CHECKING:
    from embedcube.campaign.load import Campaign
    from embedcube.cli.stages import run
    from embedcube.cube.layer import Layer
    from embedcube.cube.reader import Cube, open_cube
    from embedcube.cube.store import Cell
    from embedcube.cube.together import side_by_side
    from embedcube.errors import CorruptInput, EmbedcubeError, RequestError, StartAgain, WorkError

__version__ = "0.1.0"

__all__ = [
    "Campaign",
    "Cell",
    "CorruptInput",
    "Cube",
    "EmbedcubeError",
    "Layer",
    "RequestError",
    "StartAgain",
    "WorkError",
    "__version__",
    "open_cube",
    "run",
    "side_by_side",
]

_HOMES = {
    "Campaign": "embedcube.campaign.load",
    "Cell": "embedcube.cube.store",
    "CorruptInput": "embedcube.errors",
    "Cube": "embedcube.cube.reader",
    "EmbedcubeError": "embedcube.errors",
    "Layer": "embedcube.cube.layer",
    "RequestError": "embedcube.errors",
    "StartAgain": "embedcube.errors",
    "WorkError": "embedcube.errors",
    "open_cube": "embedcube.cube.reader",
    "run": "embedcube.cli.stages",
    "side_by_side": "embedcube.cube.together",
}
"""The module that defines each public name."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
