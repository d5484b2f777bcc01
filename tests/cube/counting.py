"""A store that remembers what is read from it."""

from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore


class Counting(WrapperStore[LocalStore]):
    """A folder, and the key and part of every read from it."""

    def __init__(self, folder: Path | LocalStore) -> None:
        super().__init__(folder if isinstance(folder, LocalStore) else LocalStore(folder, read_only=True))
        self.reads: list[tuple[str, Any]] = []
        self.bytes = 0

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        self.reads.append((key, byte_range))
        self.bytes += 0 if found is None else len(found)
        return found

    def chunks_of(self, array: str) -> list[tuple[str, Any]]:
        """Reads of inner chunks of an array with this name, without the indexes of objects and the metadata."""
        return [(key, part) for key, part in self.reads if f"/{array}/c." in key and hasattr(part, "start")]
