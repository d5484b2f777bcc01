"""The seal of a cube: one digest, kept outside of it, with which anyone can check that nothing in it has changed.

`provenance/files` lists the digests of all files that no record covers, those of the records among them. So a digest of
that list covers all of the cube. It is in the STAC Collection beside the cube; `verify` prints it, and compares it.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from embedcube.consolidate.findings import Finding
from embedcube.cube.arrays import FILES
from embedcube.errors import RequestError

SEAL = "embedcube:seal"
"""field of the STAC Collection"""


def seal_of(cube: Path) -> str:
    """SHA-256 (hex) over names and bytes of the files of `provenance/files`."""
    folder, digest = cube / "provenance" / FILES, hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def checked_seal(stated: str | None) -> str | None:
    """A seal as somebody has kept it, in small letters; a RequestError says that it is none."""
    if stated is not None and not re.fullmatch("[0-9a-fA-F]{64}", stated):
        raise RequestError(f"--seal {stated}: a seal has 64 hex digits; `embedcube verify` prints that of a cube")
    return stated.lower() if stated else None


def check_seal(cube: Path, stated: str | None) -> Iterator[Finding]:
    """Compare the seal of a cube with a stated one, and with that of the STAC Collection beside it, if there is one."""
    cube = cube.resolve()
    collection = cube.with_name(f"{cube.stem}-stac") / "collection.json"
    expected = {"the seal that was given": stated}
    if collection.is_file():
        expected[str(collection.relative_to(cube.parent))] = json.loads(collection.read_bytes()).get(SEAL)
    found = seal_of(cube)
    for place, seal in expected.items():
        if seal is not None and seal != found:
            yield Finding(check="seal", place=place, found=found[:12], expected=str(seal)[:12])
