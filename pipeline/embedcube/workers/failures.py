"""Failures of a rank that no other start would cure, in words: no memory left, no room left."""

from collections.abc import Iterator
from contextlib import contextmanager

from embedcube.campaign.plan import Shard
from embedcube.errors import WorkError

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""what torch says where it raises a plain RuntimeError"""


def no_memory(error: BaseException) -> bool:
    """Whether there was no memory, on the host or on the device."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


@contextmanager
def named(shard: Shard, doing: str) -> Iterator[None]:
    """Say which shard was being read, embedded or written (`doing`) when there was no memory for it.

    Raises:
        WorkError: there was no memory. Other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkError(
            f"{shard}: no memory while it was {doing}: {reason}; start fewer ranks on a node (how.ranks), or make "
            f"layers.{shard.layer}.batch or shard_chips smaller and plan again"
        ) from error
