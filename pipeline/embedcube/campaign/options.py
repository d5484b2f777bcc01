"""Options of a plugin, a block of the campaign file that only the plugin knows: checked like the rest of the file."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from embedcube.campaign.fields import Block, nearest


class PluginOptions(Block):
    """Base class of a plugin's options; the text under a field is its description in the JSON schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


Checked = TypeVar("Checked", bound=Block)


def check_options(kind: type[Checked], options: Mapping[str, Any], place: str) -> Checked:
    """`options` as a `kind`, with its defaults; `place` is what messages call the block.

    Raises:
        ValueError: a key is unknown (the message names the nearest known one), missing, or has a wrong value.
    """
    for key in options:
        if key not in kind.model_fields:
            raise ValueError(f'{place}: no option "{key}"{nearest(str(key), kind.model_fields)}')
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = f"is needed: {kind.model_fields[str(first['loc'][0])].description}"
        elif first["type"] != "value_error":
            message = f"{message} (found {first['input']!r})"
    raise ValueError(f"{'.'.join([place, *map(str, first['loc'])])}: {message}")
