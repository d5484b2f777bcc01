"""Disturb a small campaign by seeds, start it again until it ends, and compare its cube with the undisturbed one.

    python -m tests.chaos                  100 faults
    python -m tests.chaos --faults 10      fewer
    python -m tests.chaos --seed 17        one fault again; its folder is kept
    python -m tests.chaos --page           write the table into docs/faults.md too

Results are kept in build/chaos/<digest of the code>.jsonl: the same command goes on where it stopped. It ends with 1
if any outcome is one that must not be.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from tests.chaos.small_campaign import make_reference
from tests.chaos.trial import FORBIDDEN, Outcome, Result, from_line, to_line, tried
from tests.fuzz.results import ROOT, code_digest, write_page


def main() -> int:
    """The command; returns its exit code."""
    asked = _parsed()
    file = asked.results or ROOT / "build" / "chaos" / f"{code_digest('chaos')}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(asked.faults) if asked.seed is None else [asked.seed]
    known = {result.seed: result for result in _read(file)} if asked.seed is None else {}
    end_s = time.monotonic() + 60 * asked.minutes
    folder = Path(tempfile.mkdtemp(prefix="embedcube-chaos-"))
    if missing := [seed for seed in seeds if seed not in known]:
        reference = make_reference(folder, asked.patience)
        for seed in missing:
            if time.monotonic() > end_s:
                break
            known[seed] = tried(seed, reference, folder / "trials")
            print(f"{known[seed].outcome:10} {known[seed]}", flush=True)
            if asked.seed is None:
                with file.open("a") as results:
                    results.write(to_line(known[seed]))
    found = [known[seed] for seed in seeds if seed in known]
    print("\n".join(_counted(found)))
    if asked.page:
        write_page("chaos", [*_counted(found), "", *_listed(found)])
    if bad := [result for result in found if result.outcome in FORBIDDEN]:
        print(f"{len(bad)} outcomes that must not be; their folders are in {folder}")
    return 1 if bad else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Disturb a campaign.")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=120, help="stop after so long; the next start goes on")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of time limits, on a busy machine")
    parser.add_argument("--seed", type=int, help="only this one, even if its result is known")
    parser.add_argument("--results", type=Path, help="file of the results")
    parser.add_argument("--page", action="store_true", help="write the table into docs/faults.md")
    return parser.parse_args()


def _read(file: Path) -> list[Result]:
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [from_line(line) for line in lines if line.endswith("}\n")]  # the last line may be torn


def _counted(results: Iterable[Result]) -> list[str]:
    """A row for each kind of fault."""
    counts: dict[str, Counter[Outcome]] = {}
    for result in results:
        counts.setdefault(result.kind, Counter())[result.outcome] += 1
    outcomes = get_args(Outcome)
    lines = [f"| fault | number | {' | '.join(outcomes)} |", f"|---|{'---:|' * (1 + len(outcomes))}"]
    for kind, of_kind in sorted(counts.items()):
        cells = [str(of_kind[outcome]) for outcome in outcomes]
        lines.append(f"| {kind} | {of_kind.total()} | {' | '.join(cells)} |")
    return lines


def _listed(results: Iterable[Result]) -> list[str]:
    """A row for each fault."""
    lines = ["| seed | stage | fault | outcome | in words |", "|---:|---|---|---|---|"]
    for result in results:
        words = result.words.replace("|", "/")
        lines.append(f"| {result.seed} | {result.stage} | {result.fault} | {result.outcome} | {words} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
