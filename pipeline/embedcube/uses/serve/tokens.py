"""The secret that a client must show: a token in a file that only its owner can read. Never in a link or a log."""

import base64
import binascii
import hmac
import os
import secrets
import stat
from pathlib import Path

from embedcube.campaign.readable import readable
from embedcube.errors import RequestError

_LEAST = 16
"""characters of a token"""


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host in ("127.0.0.1", "::1", "localhost")


def token_for(host: str, file: Path | None) -> str | None:
    """The token that clients must show, or None: on an address of this machine one may do without.

    Raises:
        RequestError: the address is reached from other machines and there is no file; it is all addresses at once.
    """
    if host in ("", "0.0.0.0", "::", "*"):
        raise RequestError(f"--host {host or '(empty)'} listens on every network of this machine; name one address")
    if file is not None:
        return read_token(file, create=True)
    if not is_local(host):
        raise RequestError(
            f"--host {host} can be reached from other machines: give --token-file FILE; a new file gets a random token"
        )
    return None


def read_token(file: Path, *, create: bool = False) -> str:
    """The token in a file of mode 0600; with `create`, a new file with a random token where there is none.

    Raises:
        RequestError: there is no such file, others can read it, or it holds no token.
    """
    if create and not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
    mode = readable(file).stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RequestError(f"{file}: mode {mode & 0o777:04o}, so others can read the token; run: chmod 600 {file}")
    token = file.read_text("utf-8", errors="replace").strip()
    if len(token) < _LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(f"{file}: no token; write one line of at least {_LEAST} letters and digits")
    return token


def shows_token(authorization: str | None, token: str) -> bool:
    """Whether a header `Authorization` has the token: as Bearer, or as the password of Basic, as browsers send it."""
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    # takes the same time wherever the first wrong character is
    return hmac.compare_digest(given.strip().encode(), token.encode())
