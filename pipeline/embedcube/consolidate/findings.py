"""Finding: what a check of `verify` yields."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference between the cube and what it must be; or a remark: what is unusual, and may be right."""

    check: str
    place: str
    found: str
    expected: str
    remark: bool = False

    def __str__(self) -> str:
        return f"{self.check}: {self.place}: {self.found}, expected {self.expected}"
