"""YAML files and the types of their values: blocks with known keys only, times in UTC, coordinate reference systems."""

import difflib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from embedcube.campaign.readable import readable
from embedcube.errors import RequestError
from embedcube.printable import listed, printable, without_credentials
from embedcube.windows import moment, utc

_YAML_BYTES = 16 << 20
"""largest YAML file: a region of a million corners has less"""

_YAML_VALUES = 1_000_000
"""most values of a YAML file, those behind aliases counted at each place"""

_YAML_DEPTH = 50


def read_yaml(path: Path) -> Any:
    """The value of a YAML file, bounded in size, depth, and what its aliases stand for.

    Raises:
        RequestError: it is not YAML, or beyond the bounds.
        OSError: it could not be read.
    """
    # a FIFO is not waited for, but for one that the shell has opened: <(...); what is gone is told by whoever asks
    if path.exists() and not path.is_relative_to("/dev/fd"):
        readable(path)
    with path.open("rb") as file:
        data = file.read(_YAML_BYTES + 1)
    if len(data) > _YAML_BYTES:
        raise RequestError(f"{path}: more than {_YAML_BYTES >> 20} MB, too much for a YAML file")
    try:
        loader = yaml.SafeLoader(data.decode())
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_large(path, node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise RequestError(f"{path}: nested too deeply for a YAML file") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    except RequestError:
        raise
    except Exception as error:  # a value that has the form of a time and is none raises no error of YAML
        raise RequestError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _refuse_large(path: Path, root: yaml.Node) -> None:
    """Refuse YAML with too many values, each alias counted as all that it stands for, or nested too deeply."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node, depth: int) -> int:
        if depth > _YAML_DEPTH:
            raise RequestError(f"{path}: nested more than {_YAML_DEPTH} deep, or an alias stands for itself")
        if id(node) not in counts:
            below = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = (part for each in below for part in (each if isinstance(each, tuple) else (each,)))
            counts[id(node)] = 1 + sum(count(part, depth + 1) for part in parts)
        if counts[id(node)] > _YAML_VALUES:
            raise RequestError(f"{path}: more than {_YAML_VALUES:,} values, counting all that aliases stand for")
        return counts[id(node)]

    count(root, 0)


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
    return f', did you mean "{close[0]}"?' if close else f"; known here: {listed(known, 12)}"


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
            value = moment(value)
        except ValueError:
            raise ValueError(f'"{value}" is not a date; write for example 2023-06-01') from None
    if isinstance(value, datetime):
        if value.microsecond:
            raise ValueError(f"{value} is finer than a second")
        return utc(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(f"{value!r} is not a date; write for example 2023-06-01")


def _beginnings_of_links(links: dict[str, Path]) -> dict[str, Path]:
    for beginning in links:
        shown = printable(beginning, 80)
        if without_credentials(beginning) != beginning:
            raise ValueError(f'"{shown}" holds a user name, a password or parameters: write the link up to its folder')
        if "://" not in beginning and not beginning.startswith("/"):
            raise ValueError(f'"{shown}" is not the beginning of a link; write for example {{"s3://bucket/": FOLDER}}')
    return links


Links = Annotated[dict[str, Path], AfterValidator(_beginnings_of_links)]

Time = Annotated[datetime, BeforeValidator(_as_time)]
