"""A report as lines of text."""

from collections.abc import Iterator
from typing import Any

from embedcube.uses.decode.report import Report, Row

_SHOWN = {
    "classification": ("balanced_accuracy", "accuracy", "macro_f1"),
    "regression": ("r2", "rmse", "r2_within_groups"),
    "dense": ("r2", "rmse", "largest_class"),
}
"""scores in the table; --json has all"""


def lines_of(report: Report) -> Iterator[str]:
    """The report: what was scored, the table, calibration, figures, and what they say."""
    classes = ", ".join(f"{name} {count:g}" for name, count in report.classes.items())
    yield f"labels      {report.labels:,} cells with a vector" + (f": {classes}" if classes else "")
    if report.left_out:
        yield "left out    " + ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.items())
    names = [name for name in _SHOWN[report.task] if name in report.rows[0].scores]
    titles = [name.replace("_", " ") for name in names]
    table = [["features", "head", "numbers", "folds", "groups", *titles, "fit CPU s"]]
    table += [_row(row, names) for row in report.rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for number, row in enumerate(table):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)
    if (told := report.calibration) is not None:
        yield f"calibration Brier {told.brier:.3f}, expected calibration error {told.ece:.3f}"
        for rows, said, found in told.reliability:
            yield f"  said {said:.2f}, right {found:.2f} ({rows:,} cells)"
    if report.pixels:
        yield "pixels of held-out cells (not random folds)"
        for one in report.pixels:
            numbers = "" if one.parameters is None else f", {one.parameters:,} parameters"
            yield f"  {one.features:36} mIoU {one.scores['miou']:.3f}, accuracy {one.scores['accuracy']:.3f}{numbers}"
    yield from _figures(report.figures)
    for verdict in report.verdicts:
        yield f"- {verdict}"


def _row(row: Row, names: list[str]) -> list[str]:
    scores = [f"{row.scores[name].value:.3f} ± {row.scores[name].spread:.3f}" for name in names]
    folds = f"{row.folds} (leak)" if row.leaks else row.folds
    groups = "-" if row.leaks else f"{row.groups}"
    return [row.features, row.head, f"{row.numbers or '-'}", folds, groups, *scores, f"{row.fit_cpu_s:.2f}"]


def _figures(figures: dict[str, Any]) -> Iterator[str]:
    for title, numbers in figures.items():
        if isinstance(numbers, dict):
            yield title
            for name, number in numbers.items():
                yield f"  {name:34} {'unknown' if number is None else f'{number:,}'}"
        elif numbers:
            yield f"{title}: {numbers}"
