"""Damage files of every format by seeds, read them as a campaign does, and count what comes of it.

    python -m tests.fuzz                           1,000 inputs for each format, on two processes, for an hour at most
    python -m tests.fuzz --inputs 20               fewer
    python -m tests.fuzz --first 500               the second half of them
    python -m tests.fuzz --formats grib1,grib2     some formats
    python -m tests.fuzz --seeds grib2:236 jp2:4   some seeds again, with all that is known of them
    python -m tests.fuzz --page                    write the table into docs/faults.md too

Results are kept in build/fuzz/<digest of the code>: the same command goes on where it stopped. It ends with 1 if any
outcome is one that must not be.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.formats import FORMATS
from tests.fuzz.results import ROOT, Results, code_digest, forbidden, table, write_page
from tests.fuzz.sandbox import ONE_THREAD
from tests.fuzz.trial import Bench

_ROUND = 50
"""seeds of a format that are tried before those of the next: a run that is stopped has tried all formats alike"""


def main() -> int:
    """The command; returns its exit code."""
    asked = _parsed()
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]], os.environ | ONE_THREAD)
    results = Results(asked.results or ROOT / "build" / "fuzz" / code_digest("fuzz"))
    if asked.seeds:
        return _try_again(asked.seeds, results if asked.results else None)
    if asked.share is not None:
        _work(asked, results)
        return 0
    command = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]]
    workers = [subprocess.Popen([*command, "--share", str(share)], cwd=ROOT) for share in range(asked.processes)]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    found = [one for one in results.read() if asked.first <= one.seed < asked.inputs and one.format in asked.formats]
    print("\n".join(table(found)))
    for result in forbidden(found):
        print(f"{result.outcome:10} {result}")
    if asked.page:
        write_page("fuzz", table(found))
    return 1 if any(codes) or forbidden(found) else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damage inputs and read them.")
    parser.add_argument("--inputs", type=int, default=1000, help="inputs for each format")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long; the next start goes on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--formats", type=lambda text: text.split(","), default=list(FORMATS))
    parser.add_argument("--seeds", nargs="+", default=[], help="format:number")
    parser.add_argument("--results", type=Path, help="folder of the results")
    parser.add_argument("--page", action="store_true", help="write the table into docs/faults.md")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(asked: argparse.Namespace, results: Results) -> None:
    """Try the seeds of one share of the work."""
    end_s = time.monotonic() + 60 * asked.minutes
    known = {(result.format, result.seed) for result in results.read()}
    with tempfile.TemporaryDirectory(prefix="embedcube-fuzz-") as folder:
        bench = Bench(Path(folder))
        for name, seed in _in_rounds(asked.formats, range(asked.first, asked.inputs)):
            if seed % asked.processes != asked.share or (name, seed) in known:
                continue
            if time.monotonic() > end_s:
                return
            results.add(bench.tried(name, seed), asked.share)


def _in_rounds(formats: list[str], seeds: range) -> Iterator[tuple[str, int]]:
    for first in range(seeds.start, seeds.stop, _ROUND):
        for name in formats:
            for seed in range(first, min(first + _ROUND, seeds.stop)):
                yield name, seed


def _try_again(seeds: list[str], results: Results | None) -> int:
    """Try single seeds; the exit code is 1 if an outcome of any must not be."""
    tried = []
    with tempfile.TemporaryDirectory(prefix="embedcube-fuzz-") as folder:
        bench = Bench(Path(folder))
        for name, _, number in (seed.partition(":") for seed in seeds):
            tried.append(result := bench.tried(name, int(number)))
            print(f"{result.outcome}: {result}\n{result.stack}\n{result.seconds} s, {result.peak_mib} MiB", flush=True)
            if results:
                results.add(result, 0)
    return 1 if forbidden(tried) else 0


if __name__ == "__main__":
    sys.exit(main())
