"""Types of the values in a campaign file: blocks with known keys only, times in UTC, coordinate reference systems."""

import difflib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from embedcube.windows import utc


class Block(BaseModel):
    """A block of the YAML: frozen, and every key must be known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = list(cls.model_fields)
            for key in data:
                if key not in known:
                    raise ValueError(f'unknown key "{key}"{nearest(str(key), known)}')
        return data


def nearest(word: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown word: the nearest known word, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f', did you mean "{close[0]}"?' if close else f"; known here: {', '.join(known)}"


def _known_crs(crs: str) -> str:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        CRS.from_user_input(crs)
    except CRSError:
        raise ValueError(f'"{crs}" is not a coordinate reference system; write for example EPSG:32632') from None
    return crs


Crs = Annotated[str, AfterValidator(_known_crs)]


def _as_time(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f'"{value}" is not a date; write for example 2023-06-01') from None
    if isinstance(value, datetime):
        if value.microsecond:
            raise ValueError(f"{value} is finer than a second")
        return utc(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(f"{value!r} is not a date; write for example 2023-06-01")


Time = Annotated[datetime, BeforeValidator(_as_time)]
