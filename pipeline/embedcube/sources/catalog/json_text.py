"""JSON from an archive: bounded in size and depth, and whatever is wrong with it is said in words."""

import json
from pathlib import Path
from typing import Any

from embedcube.printable import printable
from embedcube.sources.catalog.files import read_bounded

ITEM_BYTES = 16 << 20
"""largest Item; those of archives have some ten thousand bytes"""

CATALOGUE_BYTES = 1 << 30
"""largest file of a catalogue, which takes about ten times as much memory"""


def parsed(text: bytes) -> Any:
    """The value of a JSON text in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: it is not JSON; the message follows the name of its file.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {printable(error)}") from None


def read_json(path: Path, most: int) -> Any:
    """The value of a JSON file of at most `most` bytes.

    Raises:
        ValueError: it is not JSON, larger, or no file; the message begins with the name of the file.
        OSError: it could not be read.
    """
    return parsed_file(path, read_bounded(path, most))


def parsed_file(path: Path, data: bytes) -> Any:
    """The value of the bytes of a JSON file.

    Raises:
        ValueError: they are not JSON; the message begins with the name of the file.
    """
    try:
        return parsed(data)
    except ValueError as error:
        raise ValueError(f"{printable(path.name)} {error}") from None


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
