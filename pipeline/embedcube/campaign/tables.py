"""Reading the Parquet files of a run folder: a damaged or older one is refused in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from embedcube.errors import RequestError


def read_columns(
    path: Path, names: Sequence[str], again: str, filters: list[tuple[str, str, Any]] | None = None
) -> pyarrow.Table:
    """The named columns of a Parquet file, of the rows that match `filters`.

    Raises:
        RequestError: the file is damaged, or has not these columns; the verb `again` writes it anew.
    """
    try:
        if filters is not None:
            return pyarrow.parquet.read_table(path, columns=list(names), filters=filters)
        # not read_table: its datasets import pandas
        with pyarrow.parquet.ParquetFile(path) as file:
            # `read` leaves out a column that is not there without a word
            if absent := sorted(set(names) - set(file.schema_arrow.names)):
                raise pyarrow.ArrowInvalid(f"no column {', '.join(absent)}")
            return file.read(columns=list(names))
    except pyarrow.ArrowException as error:
        raise refused(path, error, again) from None
    except OSError as error:
        # a number says what the file system reports and may pass; pyarrow gives none for damaged bytes
        if error.errno is not None:
            raise
        raise refused(path, error, again) from None


def refused(path: Path, error: Exception, again: str) -> RequestError:
    """The error to raise for a file that cannot be understood."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return RequestError(
        f"{path}: damaged, or written by another version of embedcube ({reason}); run `embedcube {again}` again"
    )
