"""A web server of one folder that answers ranges, as static servers and buckets do, and remembers every request."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class RangeServer:
    """A running server."""

    link: str
    """of the folder, without a slash at its end"""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """method, path and range of each request so far"""
    sent: int = 0
    """bytes of all bodies"""
    needs: str = ""
    """value of the header `Authorization` without which everything is forbidden; empty for none"""


@contextmanager
def serving(folder: Path, *, ranges: bool = True) -> Iterator[RangeServer]:
    """Serve a folder on a free port of this machine; with `ranges` false only whole files are given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.requests.append((self.command, self.path, asked))
            if state.needs and self.headers.get("Authorization") != state.needs:
                self._answer(401, b"")
                return
            file = folder / unquote(urlsplit(self.path).path).lstrip("/")
            if not file.is_file():
                self._answer(404, b"")
                return
            body = file.read_bytes()
            found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
            if not ranges or not found:
                self._answer(200, body)
                return
            first = int(found[1]) if found[1] else max(0, len(body) - int(found[2]))
            last = int(found[2]) if found[1] and found[2] else len(body) - 1
            part = body[first : last + 1]
            self._answer(206, part, f"bytes {first}-{first + len(part) - 1}/{len(body)}")

        def _answer(self, code: int, body: bytes, place: str = "") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            if place:
                self.send_header("Content-Range", place)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
                state.sent += len(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = RangeServer(link=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
