"""The server of cubes under load: CPU time of a request, requests a second, p99, and the growth of memory over minutes.

    python -m benchmarks.serve CUBE [--layer NAME] [--minutes 10] [--seconds 10]

Needs `wrk`. CPU time is that of the server's process; wall times mean something on a quiet machine only.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from embedcube.cube.reader import Cube
from embedcube.grid import to_degrees
from embedcube.uses.serve.limits import Held, Limits

PLACES = 4000
"""places that are asked for in turn, spread over the layer"""

CONNECTIONS = 4

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run of wrk measured."""

    requests: int
    per_second: float
    p99_ms: float
    refused: int
    """answers that were not 200"""
    cpu_ms: float
    """of the server's process, for each request"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", type=Path)
    parser.add_argument("--layer")
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=0, help="of the soak")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("needs wrk")
    cube = Cube(given.cube.resolve())
    layer = given.layer or cube.layers[0]
    base = f"/v1/cubes/cube/layers/{layer}"
    window = cube.windows(cube.zones_of(layer)[0])[0].short
    places = _places(cube, layer)
    print("                          requests   a second    p99 ms   not 200   CPU ms a request")
    with _server(given.cube, Limits(held=Held(chunks_mb=1))) as (process, address):
        _line("points, read", _load(process, address, _paths(base, places, window), given.seconds))
    with _server(given.cube, Limits(held=Held(chunks_mb=2048))) as (process, address):
        paths = _paths(base, places, window)
        _load(process, address, paths, 3)
        _line("points, kept", _load(process, address, paths, given.seconds))
        _line("one point, kept", _load(process, address, paths[:1], given.seconds))
        _line("all windows, kept", _load(process, address, _paths(base, places[:1], None), given.seconds))
        _similar(process, address, base, places[0], window)
    if given.minutes:
        with _server(given.cube, Limits(held=Held(chunks_mb=64, windows_mb=256))) as (process, address):
            _soak(process, address, base, places, window, given.minutes * 60)


def _places(cube: Cube, layer: str) -> list[tuple[float, float]]:
    """Places in the first zone of a layer."""
    attributes = cube.group(cube.zones_of(layer)[0]).attrs
    rng = np.random.default_rng(0)
    a, _, left, _, e, top = attributes["spatial:transform"]
    rows, columns = attributes["spatial:shape"]
    y, x = rng.integers(0, rows, PLACES), rng.integers(0, columns, PLACES)
    lon, lat = to_degrees(attributes["proj:wkt2"]).transform(left + (x + 0.5) * a, top + (y + 0.5) * e)
    return [(float(one), float(other)) for one, other in zip(lon, lat, strict=True)]


def _paths(base: str, places: list[tuple[float, float]], window: str | None) -> list[str]:
    chosen = f"&time={window}" if window else ""
    return [f"{base}/point?lon={lon:.7f}&lat={lat:.7f}{chosen}" for lon, lat in places]


@contextmanager
def _server(cube: Path, limits: Limits) -> Iterator[tuple[int, str]]:
    """The process and the address of a server with some limits."""
    program = (
        "from embedcube.uses.serve.limits import Held, Limits; from embedcube.uses.serve.running import serve; "
        f"serve(['cube={cube.resolve()}'], host='127.0.0.1', port=0, token_file=None, say=lambda _: None, "
        f"limits={limits!r}, ready=lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _rss_mb(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def _load(process: int, address: str, paths: list[str], seconds: int) -> Load:
    """Ask for some paths in turn for some seconds."""
    lines = ",".join(json.dumps(path) for path in paths)
    script = f"local paths = {{{lines}}}\nlocal i = 0\n"
    script += 'request = function()\n i = i % #paths + 1\n return wrk.format("GET", paths[i])\nend\n'
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        before = _cpu_s(process)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency", "-s", file.name, address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout
        used_s = _cpu_s(process) - before
    if done.returncode:
        sys.exit(f"wrk: {done.stderr or done.stdout}")
    requests = int(_found(r"(\d+) requests in", said))
    return Load(
        requests=requests,
        per_second=float(_found(r"Requests/sec:\s+([\d.]+)", said)),
        p99_ms=_milliseconds(_found(r"99%\s+([\d.]+\w+)", said)),
        refused=int(_found(r"Non-2xx or 3xx responses: (\d+)", said) or 0),
        cpu_ms=used_s / max(1, requests) * 1000,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _milliseconds(text: str) -> float:
    number = float(_found(r"([\d.]+)", text))
    return number * (1000 if text.endswith("s") and text[-2].isdigit() else 0.001 if text.endswith("us") else 1)


def _line(name: str, load: Load) -> None:
    print(
        f"{name:24}  {load.requests:>8}  {load.per_second:>9.0f}  {load.p99_ms:>8.1f}  {load.refused:>8}  "
        f"{load.cpu_ms:>17.2f}"
    )


def _similar(process: int, address: str, base: str, place: tuple[float, float], window: str) -> None:
    body: dict[str, Any] = {"like": [{"lon": place[0], "lat": place[1]}], "time": window}
    with httpx.Client(base_url=address, trust_env=False, timeout=120) as client:
        first = client.post(f"{base}/similar", json=body)
        if first.status_code != 200:
            print(f"similar: {first.text}")
            return
        before = _cpu_s(process)
        for _ in range(10):
            client.post(f"{base}/similar", json=body)
        print(f"similar, kept: {(_cpu_s(process) - before) * 100:.0f} CPU ms for {len(first.content):,} cells")


def _soak(
    process: int, address: str, base: str, places: list[tuple[float, float]], window: str, seconds: float
) -> None:
    """Ask for all kinds of things for some minutes, and print the memory of the server."""
    rng = random.Random(0)
    paths, end, minute = _paths(base, places, window), time.monotonic() + seconds, 0.0
    start, asked = time.monotonic(), 0
    print("minute  requests  memory MB")
    with httpx.Client(base_url=address, trust_env=False, timeout=120) as client:
        while time.monotonic() < end:
            _load(process, address, paths, 2)
            (lon, lat), k = rng.choice(places), rng.randint(1, 50)
            body: dict[str, Any] = {"like": [{"lon": lon, "lat": lat}], "time": window}
            client.post(f"{base}/find", json=body | {"k": k})
            client.post(f"{base}/similar", json=body)
            client.get(f"{base}/box", params={"bbox": f"{lon - 0.005},{lat - 0.005},{lon + 0.005},{lat + 0.005}"})
            client.get(f"{base}/explain", params={"lon": lon, "lat": lat, "time": window})
            client.get(f"{base}/point", params={"lon": 190, "lat": lat})
            lines = client.get("/metrics").text.splitlines()
            asked = sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith("embedcube_requests_total"))
            if time.monotonic() - start >= minute * 60:
                print(f"{minute:>6.0f}  {asked:>8}  {_rss_mb(process):>9.1f}", flush=True)
                minute += 1
    print(f"{(time.monotonic() - start) / 60:>6.1f}  {asked:>8}  {_rss_mb(process):>9.1f}")


if __name__ == "__main__":
    main()
