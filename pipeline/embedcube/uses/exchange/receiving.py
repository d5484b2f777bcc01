"""Check a bundle and take it in: every byte of the file is compared with what the bundle says of itself."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from embedcube.campaign.run_folder import write_atomically
from embedcube.errors import RequestError, WorkError
from embedcube.printable import listed, printable
from embedcube.progress import Progress
from embedcube.uses.exchange.manifest import MANIFEST, PART, Manifest, read_manifest
from embedcube.uses.exchange.zipped import Members
from embedcube.uses.pull import NAME, copy_part

_LONGEST = 200
"""characters of the name of a cube; names of files have at most 255 bytes"""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `check` has found."""

    kind: str
    """"part" or "reduced"; empty where bundle.json cannot be read"""
    cube: str
    members: int
    bytes: int
    damaged: list[str] = field(default_factory=list)
    """members, and what is wrong with each"""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What `import` has made."""

    folder: Path
    kind: str
    files: int
    kept: int
    """files that were there before"""


def check(path: Path, progress: Progress) -> Checked:
    """Compare all members of a bundle with their digests, and the rest of the file with what a writer makes of them.

    Raises:
        RequestError: it is no bundle, its list of members is damaged, or a member may not be in a bundle.
    """
    members = Members(path)
    try:
        manifest = read_manifest(members)
    except WorkError:
        damaged = [f"{MANIFEST}: its checksum is another; it says what all other members must be"]
        return Checked(kind="", cube="", members=len(members.sizes), bytes=path.stat().st_size, damaged=damaged)
    damaged = _damaged(members, manifest, progress)
    if not damaged and (where := members.first_difference()):
        damaged = [f"{where}: its header in the zip (name, date or size) has changed, its bytes have not"]
    return Checked(kind=manifest.kind, cube=manifest.cube, members=len(members.sizes), bytes=path.stat().st_size,
                   damaged=damaged)  # fmt: skip


def _damaged(members: Members, manifest: Manifest, progress: Progress) -> list[str]:
    found, names = [], members.sizes
    for done, name in enumerate(sorted(names.keys() | manifest.files.keys()), start=1):
        progress(done, len(names))
        if name == MANIFEST:
            continue
        if name not in names:
            found.append(f"{name}: not in the file")
        elif name not in manifest.files:
            found.append(f"{name}: {MANIFEST} has no such member")
        else:
            try:
                digest = members.digest(name)
            except WorkError:
                found.append(f"{name}: its bytes are not those of its checksum in the zip")
                continue
            if digest != manifest.files[name]:
                found.append(f"{name}: SHA-256 {digest[:12]}, {MANIFEST} has {manifest.files[name][:12]}")
    return found


def take_in(path: Path, folder: Path, progress: Progress) -> Imported:
    """Make of a bundle the folder `folder`/<version>.zarr; files that are there with their digests are kept.

    Of a part of a cube it is a cube again: the same bytes, which `verify` checks. Of smaller vectors it is a Zarr group
    that is plain to read.

    Raises:
        RequestError: it is no bundle, or another cube is there.
        WorkError: a member is missing or damaged; what was taken in stays.
    """
    members = Members(path)
    manifest = read_manifest(members)
    version = manifest.cube
    if not NAME.fullmatch(version) or "/" in version or len(version) > _LONGEST:
        raise RequestError(f"{path}: {printable(version, 80)} is no name for a folder")
    if absent := sorted(manifest.files.keys() - members.sizes.keys()):
        raise WorkError(f"{path}: not in the file: {listed(absent, most=2)}; copy the bundle again")
    if manifest.kind != PART:
        return _take_reduced(members, manifest, folder / f"{version}-reduced.zarr", progress)
    target = folder / f"{version}.zarr"
    pulled = copy_part(members, target, progress, partly=True)
    if pulled.damaged:
        raise WorkError(f"{path}: damaged: {'; '.join(pulled.damaged[:3])}; copy the bundle again")
    return Imported(folder=target, kind=manifest.kind, files=pulled.files, kept=pulled.kept)


def _take_reduced(members: Members, manifest: Manifest, target: Path, progress: Progress) -> Imported:
    marker = target / MANIFEST
    own = json.dumps(manifest.document, sort_keys=True).encode()
    if target.exists() and (not marker.is_file() or marker.read_bytes() != own):
        raise RequestError(f"{target} holds something else; take this bundle into another folder")
    kept = 0
    names = [name for name in members.sizes if name != MANIFEST]
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, own)
    for done, name in enumerate(names, start=1):
        data = members.read(name, members.sizes[name])
        if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
            raise WorkError(f"{members.path}: the member {name} is damaged; `embedcube check` lists all that are")
        out = target / name
        if out.is_file() and out.read_bytes() == data:
            kept += 1
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, data)
        progress(done, len(names))
    return Imported(folder=target, kind=manifest.kind, files=len(names), kept=kept)
