"""Options of a plugin, a block of the campaign file that only the plugin knows: checked and described like the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from embedcube.campaign.fields import Block, nearest
from embedcube.printable import printable

_SHOWN = 80
"""characters of a wrong value in a message"""


class PluginOptions(Block):
    """Base class of a plugin's options; the text under a field is its meaning.

    Checks, the JSON Schema, the reference and `embedcube sources` are made from it. A plugin without options uses this
    class itself.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)


Checked = TypeVar("Checked", bound=Block)


def check_options(kind: type[Checked], options: Mapping[str, Any], place: str) -> Checked:
    """`options` as a `kind`, with its defaults; `place` is what messages call the block.

    Raises:
        ValueError: a key is unknown (the message names the nearest known one), missing, or has a wrong value.
    """
    for key in options:
        if key not in kind.model_fields:
            known = nearest(str(key), kind.model_fields) if kind.model_fields else "; there are none here"
            raise ValueError(f'{place}: no option "{key}"{known}')
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = f"is needed: {kind.model_fields[str(first['loc'][0])].description}"
        elif first["type"] != "value_error":
            message = f"{message} (found {printable(repr(first['input']), _SHOWN)})"
    raise ValueError(f"{'.'.join([place, *map(str, first['loc'])])}: {message}")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a plugin, as it is shown to people."""

    name: str
    value: str
    """type, in words"""
    required: bool
    default: Any
    """value as in JSON; None if it is required or has none"""
    meaning: str


def described(kind: type[Block]) -> tuple[Option, ...]:
    """Every option of a block, in its order."""
    schema = kind.model_json_schema()
    return tuple(
        Option(
            name=name,
            value=in_words(field),
            required=name in schema.get("required", ()),
            default=field.get("default"),
            meaning=" ".join(field.get("description", "").split()),
        )
        for name, field in schema.get("properties", {}).items()
    )


def in_words(schema: Mapping[str, Any], named: Callable[[str], str] = str, code: str = "{}") -> str:
    """A type of JSON Schema in words.

    `named` shows the name of another block, `code` is the format of a literal value.
    """
    if "$ref" in schema:
        return named(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        kinds = [in_words(kind, named, code) for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(code.format(value) for value in schema["enum"])
    if "const" in schema:
        return code.format(schema["const"])
    if schema.get("format") in ("date-time", "path"):
        return {"date-time": "time", "path": "path"}[schema["format"]]
    kind = schema.get("type", "")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(in_words(item, named, code) for item in schema['prefixItems'])}]"
        return f"list of {in_words(schema['items'], named, code)}"
    if kind == "object":
        inner = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
        return f"name: {in_words(inner, named, code)}" if isinstance(inner, dict) else "keys and values"
    yes_or_no = f"{code.format('true')}, {code.format('false')}"
    return {"string": "text", "boolean": yes_or_no, "integer": "whole number"}.get(kind, "number")
