"""Contract checks for authors of plugins (`check_source`, `check_backbone`), and a small synthetic archive.

The checks are imported when they are first used: the archive is written and read without torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedcube.testing.contracts import check_backbone, check_source

__all__ = ["check_backbone", "check_source"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from embedcube.testing import contracts

    found: object = getattr(contracts, name)
    return found
