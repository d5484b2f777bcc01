"""Backbones put together of several, `backbone: {name: concat, of: [...]}`: what a campaign says of their parts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONCAT = "concat"


def parts_of(backbone: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a backbone; none of one that is a single model. What is no part is left for the backbone to say."""
    parts = backbone.get("of") if backbone.get("name") == CONCAT else None
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list | tuple) else []


def names_of(backbone: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the plugins that a backbone needs: its own, then those of its parts."""
    inner = (part.get("backbone") for part in parts_of(backbone))
    return (str(backbone["name"]), *(str(one["name"]) for one in inner if isinstance(one, Mapping) and "name" in one))


def with_files(backbone: dict[str, Any], absolute: Callable[[Path], Path]) -> dict[str, Any]:
    """The backbone with the paths of its parts' weights made absolute."""
    return _mapped(
        backbone,
        lambda part: part | {"weights": str(absolute(Path(part["weights"])))} if _names_a_file(part) else part,
    )


def without_files(backbone: dict[str, Any]) -> dict[str, Any]:
    """The backbone without the paths of its parts' weights, which decide no byte: the bytes of the files do."""
    return _mapped(backbone, lambda part: {key: value for key, value in part.items() if key != "weights"})


def _names_a_file(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("weights"), str | Path)


def _mapped(backbone: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    if not parts_of(backbone):
        return backbone
    return backbone | {"of": [change(dict(part)) if isinstance(part, Mapping) else part for part in backbone["of"]]}
