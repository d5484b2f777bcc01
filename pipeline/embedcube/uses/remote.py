"""Cubes at other centres: their stores, read with obstore, and their servers, asked with httpx.

obstore reads a folder, http(s), S3, Azure and Google stores in one way, with time limits and retries, and reads in
threads without holding Python's lock. What a server of cubes is asked (`embedcube serve`) is plain JSON over HTTP, for
which httpx is the client that most people know. A token goes to its own server only, in a header.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from embedcube.campaign.readable import readable
from embedcube.errors import RequestError, WorkError
from embedcube.printable import printable, printable_href
from embedcube.uses.serve.tokens import read_token

T = TypeVar("T")

CONNECT_S = 5.0
"""seconds to reach a server"""

_READ_S = 60.0
"""seconds that a server may say nothing, or that one object may take"""

_RETRIES = 2

_LARGEST_ANSWER = 256 << 20
"""bytes of an answer of a server"""

_LARGEST_DOCUMENT = 64 << 20
"""bytes of a document of STAC"""

_API = "/v1/cubes"


def within(seconds: float, work: Callable[[], T], what: str) -> T:
    """The result of `work`, which other machines may make wait; a WorkError when it takes longer than `seconds`.

    Limits of clients are for a pause: one that sends a byte every second passes them for ever. The work goes on in a
    thread that does not keep the process alive, and its result is not used.
    """
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, work()))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=run, daemon=True, name=f"embedcube: {what[:40]}").start()
    try:
        good, answer = answers.get(timeout=max(0.0, seconds))
    except queue.Empty:
        raise WorkError(f"{what}: no whole answer within {seconds:.3g} s") from None
    if good:
        return cast(T, answer)
    raise answer


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a cube is: a path, the URL of its store, or that of a server of cubes."""

    url: str
    token_file: Path | None = None
    """file of mode 0600 with the token that the server asks for"""

    @property
    def remote(self) -> bool:
        """Whether it is a URL."""
        return "://" in self.url

    @property
    def served(self) -> bool:
        """Whether it is a server of cubes (`http://host:port` or `.../v1/cubes/NAME`), not the URL of a store."""
        if not self.url.startswith(("http://", "https://")):
            return False
        path = urlsplit(self.url).path.rstrip("/")
        return path == "" or (_API in path and "/files/" not in path)

    @property
    def headers(self) -> dict[str, str]:
        """What a request shows to the server."""
        return {} if self.token_file is None else {"Authorization": f"Bearer {read_token(self.token_file)}"}

    def __str__(self) -> str:
        return printable_href(self.url)


class Store:
    """The store of a cube, by names of its files. For several threads."""

    def __init__(self, address: Address) -> None:
        """Open the store; nothing is read yet. A RequestError says that the URL is of no kind that can be read."""
        from obstore.store import from_url

        self.address = address
        url = address.url if address.remote else Path(address.url).resolve().as_uri()
        if not address.remote and not Path(address.url).is_dir():
            raise RequestError(f"{address}: there is no such folder")
        client: dict[str, Any] = {"timeout": f"{_READ_S:.0f}s", "connect_timeout": f"{CONNECT_S:.0f}s"}
        if url.startswith("http"):
            client |= {"allow_http": True, "default_headers": address.headers}
        retry = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_READ_S)}
        try:
            if url.startswith("file:"):
                self._store: Any = from_url(url)
            else:
                self._store = from_url(url, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        except Exception as error:  # of Rust, without a class of its own
            raise RequestError(f"{address}: not the URL of a store: {printable(error, 200)}") from None

    def has(self, _: str) -> bool:
        """Whether there is such a file: taken as true, reading says."""
        return True

    def read(self, name: str, most: int) -> bytes:
        """All bytes of a file of at most `most` bytes.

        Raises:
            FileNotFoundError: there is none.
            WorkError: it is larger, or the server does not give it.
        """
        import obstore

        try:
            answer = obstore.get(self._store, name)
            if answer.meta["size"] > most:
                raise WorkError(f"{self.address}: {name} has {answer.meta['size']} bytes, expected at most {most}")
            return bytes(answer.bytes())
        except FileNotFoundError:
            raise
        except (OSError, obstore.exceptions.BaseError) as error:
            words = str(error).partition("Debug source")[0]
            raise WorkError(f"{self.address}: {name}: {printable(words, 300)}") from None


class Server:
    """A server of cubes: `embedcube serve`."""

    def __init__(self, address: Address, timeout_s: float = _READ_S) -> None:
        """Nothing is asked yet."""
        self.address = address
        self._timeout_s = timeout_s
        parts = urlsplit(address.url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        before, _, name = parts.path.rstrip("/").partition(_API)
        self._base = f"{before}{_API}"
        self._name = name.strip("/")

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a question about the cube, by the path below it."""
        return self._ask("GET", f"{self._base}/{self.name}/{path}".rstrip("/"))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question with a body in JSON."""
        return self._ask("POST", f"{self._base}/{self.name}/{path}", body)

    @property
    def name(self) -> str:
        """Name of the cube; where the address has none, that of the only one which is served."""
        if not self._name:
            names = [str(one["name"]) for one in self._ask("GET", self._base)["cubes"]]
            if len(names) != 1:
                raise RequestError(f"{self.address}: which cube? It serves {', '.join(names)}; add {_API}/NAME")
            (self._name,) = names
        return self._name

    @property
    def store(self) -> Address:
        """Address of the store of the cube."""
        path = str(self.get("")["store"])
        if not path.startswith("/"):
            raise WorkError(f"{self.address}: names a store that is not its own: {printable(path)}")
        return Address(url=self._origin + path, token_file=self.address.token_file)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        status, data = within(self._timeout_s, lambda: self._answer(method, path, body), str(self.address))
        return _understood(self.address, status, data)

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        """Status and bytes of an answer."""
        import httpx

        limits = httpx.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s))
        try:
            with httpx.stream(
                method, self._origin + path, json=body, headers=self.address.headers, timeout=limits, trust_env=False
            ) as answer:
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > _LARGEST_ANSWER:
                        raise WorkError(f"{self.address}: an answer of more than {_LARGEST_ANSWER >> 20} MB")
                return answer.status_code, bytes(data)
        except httpx.HTTPError as error:
            raise WorkError(f"{self.address}: {type(error).__name__}: {printable(error, 200)}") from None


def _understood(address: Address, status: int, data: bytes) -> dict[str, Any]:
    """The JSON of an answer; a RequestError says what the server finds wrong, a WorkError that it cannot answer."""
    import json

    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise WorkError(f"{address}: status {status}, and no JSON; is it a server of cubes?") from None
    if status == 200:
        return value
    detail = printable(value.get("detail", ""), 300)
    if status in (400, 404, 405, 413, 422):
        raise RequestError(f"{address}: {detail} (status {status})")
    raise WorkError(f"{address}: {detail} (status {status})")


def read_document(href: str, seconds: float = _READ_S) -> bytes:
    """All bytes of a small document, by its path or http(s) URL; no token is shown.

    Raises:
        OSError: the file cannot be read.
        WorkError: the server does not give it, or not within `seconds`.
    """
    if not href.startswith(("http://", "https://")):
        return readable(Path(href)).read_bytes()
    folder, _, name = href.rpartition("/")
    try:
        store = Store(Address(url=folder))
        return within(seconds, lambda: store.read(name, _LARGEST_DOCUMENT), printable_href(href))
    except FileNotFoundError:
        raise WorkError(f"{printable_href(href)}: there is no such document") from None
