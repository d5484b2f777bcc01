"""Plugins by their names: the only place where entry points are looked up."""

import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from embedcube.campaign.backbone_parts import names_of
from embedcube.campaign.fields import nearest
from embedcube.campaign.options import PluginOptions
from embedcube.campaign.schema import Campaign
from embedcube.errors import EmbedcubeError, RequestError, WorkError

Room = Literal["sources", "backbones", "executors", "models"]


def _registered(room: Room) -> tuple[EntryPoint, ...]:
    return _registered_on(room, tuple(sys.path))


@lru_cache(maxsize=16)
def _registered_on(room: Room, _: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The plugins of a room; kept for each search path, as reading what is installed takes 15 ms of computing."""
    return tuple(entry_points(group=f"embedcube.{room}"))


def names(room: Room) -> list[str]:
    """All registered names of one kind of plugin."""
    return sorted({point.name for point in _registered(room)})


def distribution(room: Room, name: str) -> str:
    """Name and version of the package that registers `name`; empty for embedcube, whose version is KERNEL_VERSION."""
    for point in _registered(room):
        if point.name == name and point.dist is not None and point.dist.name != "embedcube":
            return f"{point.dist.name} {point.dist.version}"
    return ""


def own_modules(campaign: Campaign) -> list[str]:
    """The modules of embedcube with the campaign's sources and backbones; those of other packages are left out."""
    named = {("sources", archive.source) for archive in campaign.archives.values()}
    named |= {("backbones", name) for layer in campaign.layers.values() for name in names_of(layer.backbone)}
    rooms: tuple[Room, ...] = ("sources", "backbones")
    points = [(room, point) for room in rooms for point in _registered(room) if not distribution(room, point.name)]
    return sorted({point.module for room, point in points if (room, point.name) in named})


def options_of(room: Room) -> dict[str, type[PluginOptions] | None]:
    """Options of every installed source or backbone, by its name; None for one that does not declare them.

    Raises:
        WorkError: the module of a plugin cannot be imported.
    """
    return {name: getattr(plugin(room, name), "options", None) for name in names(room)}


def campaign_schema() -> dict[str, Any]:
    """JSON Schema of a campaign file; options of an archive and of a layer are those of its source and backbone.

    Raises:
        WorkError: the module of a plugin cannot be imported.
    """
    schema = Campaign.model_json_schema()
    blocks = schema["$defs"]
    archive, cases = blocks["Archive"], []
    for name, block in _declared("sources", blocks):
        blocks[f"options-{name}"] = block | {"title": f"Options of {name}"}
        then: dict[str, Any] = {"properties": {"options": {"$ref": f"#/$defs/options-{name}"}}}
        if any("required" in part for part in (block, *block.get("anyOf", ()))):
            then["required"] = ["options"]
        cases.append({"if": {"properties": {"source": {"const": name}}}, "then": then})
    archive["properties"]["source"]["enum"] = names("sources")
    archive["allOf"] = cases
    backbone, cases = blocks["Layer"]["properties"]["backbone"], []
    for name, block in _declared("backbones", blocks):
        # a layer has the options beside the name of the backbone
        properties = {"name": {"const": name, "description": "the backbone"}} | block.get("properties", {})
        blocks[f"backbone-{name}"] = block | {"title": f"Backbone {name}", "properties": properties}
        is_this = {"properties": {"name": {"const": name}}, "required": ["name"]}
        cases.append({"if": is_this, "then": {"$ref": f"#/$defs/backbone-{name}"}})
    backbone |= {"properties": {"name": {"enum": names("backbones")}}, "required": ["name"], "allOf": cases}
    if (part := blocks.get("ConcatPart")) is not None:
        part["properties"]["backbone"] |= {"properties": backbone["properties"], "required": ["name"]}
    return schema


def _declared(room: Room, blocks: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """JSON Schema of the options of each plugin that declares them; the blocks that they refer to join `blocks`."""
    for name, kind in options_of(room).items():
        if kind is not None:
            block = kind.model_json_schema()
            blocks |= block.pop("$defs", {})
            yield name, block


def refuse_unknown_plugins(campaign: Campaign) -> None:
    """Raise a RequestError when the campaign names a plugin that is not installed, before any work is done."""
    named: list[tuple[Room, str]] = [("executors", campaign.how.executor)]
    named += [("sources", archive.source) for archive in campaign.archives.values()]
    named += [("backbones", name) for layer in campaign.layers.values() for name in names_of(layer.backbone)]
    for room, name in named:
        if name not in names(room):
            raise _unknown(room, name)


def plugin(room: Room, name: str) -> Any:
    """The object, usually a class, that is registered under `name`.

    Raises:
        RequestError: no such plugin; the message names the nearest one.
        WorkError: its module cannot be imported.
    """
    for point in _registered(room):
        if point.name == name:
            try:
                return point.load()
            except (EmbedcubeError, OSError, MemoryError):  # a stop signal during the import is no fault of it
                raise
            except Exception as error:
                raise _fault(room, name, error) from error
    raise _unknown(room, name)


def make_plugin(room: Room, name: str, place: str, *arguments: object) -> Any:
    """An instance of the plugin's class; `place` is the key of the campaign that names its options.

    Raises:
        RequestError: the constructor refused its options with a ValueError.
        WorkError: the constructor raised anything else that is not an I/O error: a bug of the plugin.
    """
    made = plugin(room, name)
    try:
        return made(*arguments)
    except (EmbedcubeError, OSError, MemoryError):
        raise
    except ValueError as error:
        raise RequestError(f"{place}: {error}") from error
    except Exception as error:
        raise _fault(room, name, error) from error


def _fault(room: Room, name: str, error: Exception) -> WorkError:
    package = distribution(room, name) or "embedcube"
    return WorkError(
        f"fault of the plugin {name} (package {package}), not of the campaign: {type(error).__name__}: {error}; "
        "--debug shows where"
    )


def _unknown(room: Room, name: str) -> RequestError:
    return RequestError(f'no plugin "{name}" among the {room}{nearest(name, names(room))}')
