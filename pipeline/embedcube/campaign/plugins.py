"""Plugins by their names: the only place where entry points are looked up."""

from importlib.metadata import entry_points
from typing import Any, Literal

from embedcube.campaign.fields import nearest
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError

Room = Literal["sources", "backbones", "executors", "models"]


def names(room: Room) -> list[str]:
    """All registered names of one kind of plugin."""
    return sorted({point.name for point in entry_points(group=f"embedcube.{room}")})


def distribution(room: Room, name: str) -> str:
    """Name and version of the package that registers `name`; empty for embedcube, whose version is KERNEL_VERSION."""
    for point in entry_points(group=f"embedcube.{room}"):
        if point.name == name and point.dist is not None and point.dist.name != "embedcube":
            return f"{point.dist.name} {point.dist.version}"
    return ""


def refuse_unknown_plugins(campaign: Campaign) -> None:
    """Raise a RequestError when the campaign names a plugin that is not installed, before any work is done."""
    named: list[tuple[Room, str]] = [("executors", campaign.how.executor)]
    named += [("sources", archive.source) for archive in campaign.archives.values()]
    named += [("backbones", str(layer.backbone["name"])) for layer in campaign.layers.values()]
    for room, name in named:
        if name not in names(room):
            raise _unknown(room, name)


def plugin(room: Room, name: str) -> Any:
    """The class that is registered under `name`.

    Raises:
        RequestError: there is none; the message names the nearest registered name.
    """
    for point in entry_points(group=f"embedcube.{room}"):
        if point.name == name:
            return point.load()
    raise _unknown(room, name)


def _unknown(room: Room, name: str) -> RequestError:
    return RequestError(f'no plugin "{name}" among the {room}{nearest(name, names(room))}')
