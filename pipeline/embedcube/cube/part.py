"""A cube of which only some objects are here: copied by `pull` or `import`. A file beside it says which they are.

Without that file an object that is not there would be a loss; with it `verify` checks what was copied.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from embedcube.errors import RequestError

_KEY = "objects_sha256"


def part_file(cube: Path) -> Path:
    """The file beside a cube that says which of its objects were copied."""
    return cube.with_name(f"{cube.name.removesuffix('.zarr')}.part.json")


def part_document(objects: Iterable[str]) -> bytes:
    """Bytes of that file, for the names of the objects that are here."""
    names = sorted(set(objects))
    return json.dumps({"objects": names, _KEY: _digest(names)}, indent=0).encode()


def objects_here(cube: Path) -> frozenset[str] | None:
    """Names of the objects that were copied; None for a whole cube, which has no such file.

    Raises:
        RequestError: the file is damaged.
    """
    path = part_file(cube)
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_bytes())
        names = [str(name) for name in document["objects"]]
        if document[_KEY] != _digest(names):
            raise ValueError("its checksum is another")
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is damaged ({error}); copy the cube again, files that are there are kept") from None
    return frozenset(names)


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
