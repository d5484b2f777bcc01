"""Texts of the command line that several verbs read or print alike."""

from embedcube.progress import Say


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a text with commas between them; empty ones are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def teller(as_json: bool) -> Say:
    """What prints a line of text; with `--json` nothing is printed but the object."""

    def nothing(_: str) -> None:
        return

    return nothing if as_json else print
