"""A format that is damaged: the small archives that it is tried on, and the ways in which files of it are damaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Mutation

MEMORY_GB = 1.5
"""how.mem_gb of every campaign: the price that no input may exceed"""

Structure = Callable[[bytes], Sequence[tuple[int, int]]]
"""The ranges of a file's bytes that say how the others are to be read."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A clean archive and its campaign. Of its two scenes, one is damaged."""

    archive: dict[str, Any]
    """the block of the campaign; `path` is relative to the campaign file"""
    grid: dict[str, Any]
    region: dict[str, Any]
    windows: tuple[tuple[str, str], tuple[str, str]]
    """the first holds the scene that is spared, the second the one that is damaged"""
    layer: dict[str, Any]
    files: tuple[str, ...]
    """paths of the files of which one is damaged, relative to the campaign file"""

    def campaign(self) -> dict[str, Any]:
        """The document of the campaign file."""
        return {
            "campaign": "fuzz",
            "archives": {"archive": self.archive},
            "grid": self.grid,
            "region": self.region,
            "windows": [list(window) for window in self.windows],
            "layers": {"layer": {"archives": "archive", "batch": 2, **self.layer}},
            "how": {"ranks": 1, "threads": 1, "mem_gb": MEMORY_GB, "error_budget": 1, "read_attempts": 2},
        }


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table in docs/faults.md."""

    name: str
    title: str
    writers: dict[str, Callable[[Path], Input]]
    """by name, ways to write an archive of this format into a folder"""
    mutations: Callable[[Path], tuple[Mutation, ...]]
    """the ways to damage a file, by its name"""
    structure: Structure
    checksum: str
    """what in the format tells damage from data, in words"""
