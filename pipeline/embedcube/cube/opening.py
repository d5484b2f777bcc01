"""Where a cube is: a folder, a link to another machine, or the STAC Collection that describes it.

Links are read with obstore (the extra `remote`), which is imported for them only. What is printed of a link never holds
a credential, errors of obstore included.
"""

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, ObjectStore

from embedcube.errors import RequestError, WorkError
from embedcube.printable import listed, printable, printable_href

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CLIENT: "ClientConfig" = {"timeout": "60s", "connect_timeout": "10s"}
"""waits of one request"""

RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}

_MOST_OF_JSON = 1 << 24
"""bytes of a STAC Collection that are read"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The store of a cube, and how it is called."""

    store: Store
    address: str
    """path or link as it may be printed"""
    name: str
    """last part of the path, a symbolic link followed"""
    path: Path | None
    """the folder, a symbolic link followed; None on another machine"""


def place_of(source: "str | Path | Store") -> Place:
    """The store that a path, a link, a path or link of a STAC Collection (".json"), or an open store names.

    Nothing is read but the Collection.

    Raises:
        RequestError: the Collection cannot be used, or the extra `remote` is missing.
    """
    if isinstance(source, Store):
        name = source.folder if isinstance(source, RemoteStore) else ""
        return Place(store=source, address=printable_href(str(source)), name=name, path=None)
    text = str(source)
    if text.startswith("file://"):
        text = urlsplit(text).path
    remote = "://" in text
    if urlsplit(text).path.endswith(".json") if remote else text.endswith(".json") and Path(text).is_file():
        return place_of(_cube_of_collection(text, remote))
    if remote:
        return place_of(RemoteStore(text))
    path = Path(text)
    # a link that is replaced by a newer version does not change what was opened, nor what lies beside it
    target = path.resolve()
    return Place(store=LocalStore(target, read_only=True), address=str(path), name=target.name, path=target)


if TYPE_CHECKING:
    _ObjectStore = ObjectStore[Any]
else:  # the oldest zarr-python that is allowed has no parameter there
    _ObjectStore = ObjectStore


class RemoteStore(_ObjectStore):
    """A folder on another machine, read by ranges; what fails says which one, without credentials."""

    def __init__(self, link: str, headers: Mapping[str, str] | None = None) -> None:
        """`link` is that of the folder: http, https, s3, gs or az. Credentials of buckets come from the environment.

        `headers` are sent with each request to a server (http, https), such as one with a token.
        """
        super().__init__(_obstore_of(link, headers), read_only=True)
        self._address = printable_href(link)
        self.folder = PurePosixPath(unquote(urlsplit(link).path)).name

    def __str__(self) -> str:
        return self._address

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a store on another machine is opened anew in each process: embedcube.open_cube(link)")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a file or a part of it; None where there is no such file."""
        from obstore.exceptions import BaseError

        try:
            return await super().get(key, prototype, byte_range)
        except BaseError as error:
            raise WorkError(_failure(f"{self._address}: {key}", error)) from None


def _failure(what: str, error: Exception) -> str:
    """What went wrong on another machine, in one line."""
    words = str(error)
    if "non-partial" in words or type(error).__name__ == "NotSupportedError":
        return (
            f"{what}: the server gives whole files only; a cube is read by parts (HTTP Range), use one that gives them"
        )
    if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return f"{what}: not allowed; are there credentials for it in the environment?"
    return f"{what}: {_reason(error)}; is the machine reachable from here?"


def _reason(error: Exception) -> str:
    """The first part of an error of obstore; the rest is for its developers."""
    return printable(str(error).split("Debug source", maxsplit=1)[0].strip(), 200)


def _obstore_of(link: str, headers: Mapping[str, str] | None = None) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise RequestError(
            f"{printable_href(link)} is on another machine; to read it: pip install 'embedcube[remote]'"
        ) from None
    parts = urlsplit(link)
    if parts.scheme not in _SCHEMES:
        raise RequestError(f"{printable_href(link)}: links may begin with {', '.join(_SCHEMES)}, not {parts.scheme}")
    client: dict[str, Any] = {**CLIENT}
    options: dict[str, Any] = {"client_options": client}
    endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
    client["allow_http"] = (parts.scheme == "http") or (parts.scheme == "s3" and endpoint.startswith("http:"))
    if parts.scheme in ("http", "https"):
        user, at, host = parts.netloc.rpartition("@")
        if at:
            client["default_headers"] = {"Authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"}
        if headers:
            client["default_headers"] = client.get("default_headers", {}) | dict(headers)
        parts = parts._replace(netloc=host)
    link = urlunsplit(parts._replace(path=parts.path.rstrip("/")))
    # without credentials a public bucket is read; otherwise the client would ask the machine's metadata server for some
    if parts.scheme == "s3" and not any(name in os.environ for name in _AWS):
        options["config"] = {"skip_signature": True}
    try:
        return from_url(link, retry_config=RETRIES, **options)
    except (BaseError, ValueError) as error:
        raise RequestError(f"{printable_href(link)}: {_reason(error)}") from None


_SCHEMES = ("http", "https", "s3", "gs", "az")

_AWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""environment variables that give credentials of S3"""


def _cube_of_collection(link: str, remote: bool) -> str:
    """Path or link of the cube that a STAC Collection describes: its Zarr asset, on the same machine."""
    shown = printable_href(link)
    try:
        document = json.loads(_read(link) if remote else Path(link).read_bytes())
        assets = {name: str(asset["href"]) for name, asset in document.get("assets", {}).items() if _is_zarr(asset)}
        kind = document["type"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{shown}: neither a cube nor a STAC Collection; give the folder of a cube") from None
    if kind != "Collection" or len(assets) != 1:
        found = f"the Zarr assets {listed(assets)}" if assets else "no Zarr asset"
        raise RequestError(f"{shown}: a STAC {printable(kind, 20)} with {found}; open the folder of the cube itself")
    (href,) = assets.values()
    # data never lead to another machine, nor from a machine to files of this one
    if "://" in href or href.startswith("/"):
        raise RequestError(f"{shown} leads to {printable_href(href)}; to read that, open it by this link itself")
    if not remote:
        return os.path.normpath(Path(link).absolute().parent / href)
    parts = urlsplit(link)
    return urlunsplit(parts._replace(path=urlsplit(urljoin(f"http://x{parts.path}", href)).path))


def _is_zarr(asset: dict[str, Any]) -> bool:
    return "zarr" in str(asset.get("type", "")).lower() or str(asset["href"]).rstrip("/").endswith(".zarr")


def _read(link: str) -> bytes:
    """A JSON file on another machine."""
    parts = urlsplit(link)
    folder, _, name = parts.path.rpartition("/")
    store = _obstore_of(urlunsplit(parts._replace(path=folder or "/")))
    from obstore.exceptions import BaseError

    try:
        answer = store.get(unquote(name))
        if answer.meta["size"] > _MOST_OF_JSON:
            raise RequestError(f"{printable_href(link)}: {answer.meta['size']:,} bytes are too many for a Collection")
        return bytes(answer.bytes())
    except FileNotFoundError:
        raise RequestError(f"{printable_href(link)}: there is no such file") from None
    except BaseError as error:
        raise WorkError(_failure(printable_href(link), error)) from None
