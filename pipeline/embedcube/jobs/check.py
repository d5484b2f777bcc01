"""The result of one check of `doctor`, and how checks are made so that none of them hides the others."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    what: str
    """what was checked"""
    ok: bool
    found: str
    """what was found, in words"""
    move: str = ""
    """what to do next; empty if the check passed"""


def tried(what: str, check: Callable[[], str], move: str) -> Check:
    """The result of calling `check`, which returns what it found and raises an OSError if that is wrong."""
    try:
        return Check(what=what, ok=True, found=check())
    except OSError as error:
        return Check(what=what, ok=False, found=str(error), move=move)


def looked(what: str, check: Callable[[], Iterable[Check]], move: str) -> list[Check]:
    """The results of calling `check`; one that says so where any error keeps it from looking.

    A missing command, an unknown group or a package that does not import must not hide the other checks.
    """
    try:
        return list(check())
    except FileNotFoundError as error:
        why = f"there is no {error.filename} here"
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
    return [Check(what=what, ok=False, found=f"cannot be looked at: {why}", move=move)]


def equal(what: str, found: str, described: str, key: str) -> Check:
    """Whether what was found equals what the site's file says under `key`."""
    same = found == described
    return Check(
        what=what,
        ok=same,
        found=found if same else f"{found}, the site's file says {described}",
        move="" if same else f"correct {key}",
    )
