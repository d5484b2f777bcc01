"""Seals: how a file of the run folder shows that it is whole.

JSON carries its own checksum; the digests of other files are in such JSON. A checksum finds what disks, copies and
killed processes do. It does not stop a person who may write into the folder.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from embedcube.campaign.run_folder import write_atomically
from embedcube.errors import RequestError

CHECKSUM = "checksum"
"""Field of a JSON object: SHA-256 (hex) over the canonical JSON (keys sorted, no blanks) of all other fields."""

_LINES = "# SHA-256 of the lines below: "
"""Begins the first line of a campaign as resolved."""


def sealed_text(lines: str) -> str:
    """These lines below a comment with their SHA-256."""
    return f"{_LINES}{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}"


def has_seal(path: Path) -> bool:
    """Whether a file is one that `sealed_text` made; False for one that cannot be read, or only once, as a pipe.

    Raises:
        RequestError: it is, and its lines have another SHA-256.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
    except OSError:
        return False
    _, seal, rest = data.partition(_LINES.encode())
    stated, _, lines = rest.partition(b"\n")
    if seal and stated != hashlib.sha256(lines).hexdigest().encode():
        raise RequestError(
            f"{path}: changed since embedcube wrote it, the SHA-256 of its lines is not that of its first line; run "
            "`embedcube plan` with your own campaign file, which writes it again, or remove that line to make this one "
            "a campaign of your own"
        )
    return bool(seal)


def to_line(document: dict[str, Any]) -> bytes:
    """A line of a .jsonl file: canonical JSON, with the checksum as its last field."""
    return with_checksum(_canonical(document))


def with_checksum(body: bytes) -> bytes:
    """A line of a .jsonl file, of its canonical JSON."""
    return body[:-1] + _tail(body)


def checked_line(line: bytes) -> bytes | None:
    """The canonical JSON of a line that `to_line` made, without the checksum; None where that is not the line's own."""
    body, tail = line[:-_TAIL_BYTES] + b"}", line[-_TAIL_BYTES:]
    return body if tail == _tail(body) else None


def from_line(line: bytes) -> dict[str, Any] | None:
    """The fields of a line that `to_line` made, without the checksum; None where that is not the line's own."""
    body = checked_line(line)
    return None if body is None else parsed_line(body)


def parsed_line(text: bytes) -> dict[str, Any]:
    """The fields of a line whose checksum was right, from its canonical JSON."""
    try:
        return dict(from_json(text))  # twice as fast as Python's json
    except ValueError:
        return dict(json.loads(text))  # the name of a file that is not UTF-8 has a lone surrogate


def to_file(document: dict[str, Any]) -> bytes:
    """A JSON file for people to read, with the checksum as its last field."""
    return json.dumps(document | {CHECKSUM: _checksum(document)}, indent=1).encode()


def from_file(data: bytes) -> dict[str, Any]:
    """The fields of a file that `to_file` made, without the checksum.

    Raises:
        ValueError: the bytes are not such a file, or the checksum is not that of the other fields.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("not JSON that embedcube writes: nested too deep") from None
    if not isinstance(document, dict) or CHECKSUM not in document:
        raise ValueError("no checksum")
    if document.pop(CHECKSUM) != _checksum(document):
        raise ValueError("its checksum is not that of its content")
    return document


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file with its checksum, whole or not at all."""
    write_atomically(path, to_file(document))


def read_sealed(path: Path, again: str) -> dict[str, Any]:
    """The fields of a JSON file, without the checksum.

    Raises:
        RequestError: the checksum is not that of the other fields; the verb `again` writes the file anew.
    """
    try:
        return from_file(path.read_bytes())
    except ValueError as error:
        raise refused(path, error, again) from None


def read_digested(path: Path, digest: str, again: str) -> bytes:
    """The bytes of a file, whose SHA-256 is compared before anything is parsed.

    Raises:
        RequestError: the file is gone, or its SHA-256 is another than `digest`; the verb `again` writes it anew.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file any more; run `embedcube {again}` again") from None
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise RequestError(
            f"{path}: damaged or replaced, its SHA-256 is {found[:12]} and not {digest[:12]}; "
            f"run `embedcube {again}` again"
        )
    return data


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refused(path: Path, error: Exception, again: str) -> RequestError:
    """The error to raise for a file that cannot be understood."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return RequestError(
        f"{path}: damaged, or written by another version of embedcube ({reason}); run `embedcube {again}` again"
    )


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()


def _tail(body: bytes) -> bytes:
    """The end of a line whose canonical JSON is `body`, from the last comma on."""
    return b',"%b":"%b"}\n' % (CHECKSUM.encode(), hashlib.sha256(body).hexdigest().encode())


_TAIL_BYTES = len(_tail(b""))
