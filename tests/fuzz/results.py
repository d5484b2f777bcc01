"""Results of all seeds: kept in files, so that a run goes on where it stopped; and counted in a table."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from tests.fuzz.formats import FORMATS
from tests.fuzz.reading import FORBIDDEN, Outcome, When
from tests.fuzz.trial import Result, from_line, to_line

ROOT = Path(__file__).parents[2]

PAGE = ROOT / "docs" / "faults.md"


def code_digest(tests: str) -> str:
    """Digest of the package, and of the tests in a folder: results of other code are not taken for those of this."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "tests" / tests).glob("*.[cp]*")]):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Results:
    """The results in a folder, one file for each process that adds to them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[Result]:
        """All results, by format and seed."""
        lines = [line for path in self._folder.glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
        # the last line may be torn
        found = {(r.format, r.seed): r for r in (from_line(line) for line in lines if line.endswith("}\n"))}
        return [found[key] for key in sorted(found)]

    def add(self, result: Result, share: int) -> None:
        """Append a result to the file of a share of the work."""
        with (self._folder / f"{share}.jsonl").open("a") as file:
            file.write(to_line(result))


def forbidden(results: Iterable[Result]) -> list[Result]:
    """Those that must not be."""
    return [result for result in results if result.outcome in FORBIDDEN]


def table(results: Iterable[Result]) -> list[str]:
    """The lines of the table: a row for each format, and the silent differences by the time of the damage."""
    counts: dict[str, Counter[Outcome]] = {name: Counter() for name in FORMATS}
    silent: dict[str, Counter[When]] = {name: Counter() for name in FORMATS}
    tried: dict[str, Counter[When]] = {name: Counter() for name in FORMATS}
    for result in results:
        counts[result.format][result.outcome] += 1
        tried[result.format][result.when] += 1
        silent[result.format][result.when] += result.outcome == "other"
    outcomes = get_args(Outcome)
    lines = [
        f"| format | inputs | {' | '.join(outcomes)} |",
        f"|---|{'---:|' * (1 + len(outcomes))}",
    ]
    for name, of_format in counts.items():
        cells = [str(of_format[outcome]) for outcome in outcomes]
        lines.append(f"| {FORMATS[name].title} | {of_format.total()} | {' | '.join(cells)} |")
    whens = get_args(When)
    lines += ["", f"| format | checksum in the format | {' | '.join(f'other, {when}' for when in whens)} |"]
    lines.append(f"|---|---|{'---:|' * len(whens)}")
    for name in counts:
        shares = [f"{silent[name][when]} of {tried[name][when]}" for when in whens]
        lines.append(f"| {FORMATS[name].title} | {FORMATS[name].checksum} | {' | '.join(shares)} |")
    return lines


def write_page(part: str, lines: Sequence[str]) -> None:
    """Put a table into docs/faults.md, between the two marks of its part."""
    text, made = PAGE.read_text(), "\n" + "\n".join(lines) + "\n\n"
    mark = re.compile(rf"(?<=<!-- {part} -->\n).*?(?=<!-- end of {part} -->)", re.DOTALL)
    changed, count = mark.subn(lambda _: made, text)
    if count != 1:
        raise ValueError(f"{PAGE} has {count} places for the table of {part}, not one")
    PAGE.write_text(changed)
