"""Counts of requests as Prometheus reads them."""

import resource
import threading
import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BOUNDS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""upper bounds of the classes of times in seconds"""


class Metrics:
    """Requests by route and status, their times, and bytes sent. For several threads."""

    def __init__(self) -> None:
        """Nothing has been counted."""
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds = 0.0
        self._bytes = 0

    def add(self, route: str, status: int, seconds: float, sent: int) -> None:
        """Count one request."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds += seconds
            self._bytes += sent
            for bound in _BOUNDS_S:
                self._within[bound] += seconds <= bound

    def text(self) -> str:
        """All counts in the text format of Prometheus."""
        with self._lock:
            total = sum(self._requests.values())
            lines = ["# TYPE embedcube_requests_total counter"]
            for (route, status), count in sorted(self._requests.items()):
                lines.append(f'embedcube_requests_total{{route="{route}",status="{status}"}} {count}')
            lines.append("# TYPE embedcube_request_seconds histogram")
            lines += [f'embedcube_request_seconds_bucket{{le="{b}"}} {self._within[b]}' for b in _BOUNDS_S]
            lines += [f'embedcube_request_seconds_bucket{{le="+Inf"}} {total}']
            lines += [f"embedcube_request_seconds_sum {self._seconds:.6f}", f"embedcube_request_seconds_count {total}"]
            lines += ["# TYPE embedcube_sent_bytes_total counter", f"embedcube_sent_bytes_total {self._bytes}"]
        most = resource.getrusage(resource.RUSAGE_SELF)
        lines += ["# TYPE process_cpu_seconds_total counter"]
        lines += [f"process_cpu_seconds_total {most.ru_utime + most.ru_stime:.2f}"]
        lines += ["# TYPE embedcube_most_memory_bytes gauge", f"embedcube_most_memory_bytes {most.ru_maxrss * 1024}"]
        return "\n".join(lines) + "\n"


class Counted:
    """Middleware that counts each request under the template of its route: never under what a client has written."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Count the requests of `app` in `metrics`."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent, start = 500, 0, time.perf_counter()

        async def counting(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            route = getattr(scope.get("route"), "path", "other") or "files"
            self._metrics.add(route, status, time.perf_counter() - start, sent)
