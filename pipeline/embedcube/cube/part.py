"""pulled.json: which objects of a cube were copied, where `pull` copied a part of it. A whole cube has no such file."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedcube.errors import RequestError

PULLED = "provenance/shard_recipe/pulled.json"
"""path of the file below the cube: in the folder of an array, because Zarr warns of any other file in a group"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a cube that a copy has."""

    objects: frozenset[str]
    """paths of its objects, below the cube"""
    of: int
    """objects of the whole cube"""
    asked: tuple[str, ...]
    """what was asked for, each time in words"""

    def to_bytes(self) -> bytes:
        """The contents of the file."""
        document = {"of": self.of, "asked": self.asked, "objects": sorted(self.objects)}
        return json.dumps(document | {"sha256": _digest(self.of, self.asked, self.objects)}).encode()


def part_of(cube: Path) -> Part | None:
    """The part that the cube in a folder is; None where it is whole.

    Raises:
        RequestError: the file is damaged.
    """
    path = cube / PULLED
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_bytes())
        part = Part(
            objects=frozenset(document["objects"]), of=int(document["of"]), asked=tuple(map(str, document["asked"]))
        )
        right = document["sha256"] == _digest(part.of, part.asked, part.objects)
    except (ValueError, TypeError, KeyError, AttributeError):
        right = False
    if not right:
        raise RequestError(f"{path} is damaged; remove it, and run the same `embedcube pull` again")
    return part


def _digest(of: int, asked: Sequence[str], objects: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps([of, list(asked), sorted(objects)]).encode()).hexdigest()
