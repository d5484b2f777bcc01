"""Reading the Parquet files of a run folder: the digest first, so that no damaged byte reaches a parser."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import read_digested, read_sealed, refused

_ROWS = 1 << 16
"""rows that are decoded at once, where not all are kept"""


def read_columns(
    path: Path, digest: str, names: Sequence[str], again: str, filters: list[tuple[str, str, Any]] | None = None
) -> pyarrow.Table:
    """The named columns of the Parquet file with this SHA-256, of the rows that match `filters`.

    Raises:
        RequestError: the file has another SHA-256, or has not these columns; the verb `again` writes it anew.
    """
    source = pyarrow.BufferReader(read_digested(path, digest, again))
    try:
        if filters is not None:
            return pyarrow.parquet.read_table(source, columns=list(names), filters=filters)
        # not read_table: its datasets import pandas
        with pyarrow.parquet.ParquetFile(source) as file:
            _refuse_absent(file, names)
            return file.read(columns=list(names))
    except (pyarrow.ArrowException, OSError) as error:
        raise refused(path, error, again) from None


def read_pieces(
    path: Path, digest: str, names: Sequence[str], again: str, task: int | None = None
) -> Iterator[pyarrow.Table]:
    """The named columns, some thousand rows at a time, with the errors of `read_columns`; one piece at least.

    Of a table with a column `task` only the rows of one task, if one is named.
    """
    source = pyarrow.BufferReader(read_digested(path, digest, again))
    needed = list(names) if task is None else [*dict.fromkeys([*names, "task"])]
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            _refuse_absent(file, needed)
            groups = [i for i in range(file.num_row_groups) if task is None or _may_have(file, i, task)]
            for batch in file.iter_batches(_ROWS, row_groups=groups, columns=needed):
                table = pyarrow.Table.from_batches([batch])
                if task is not None:
                    table = table.filter(pyarrow.compute.equal(table["task"], task))
                yield table.select(list(names))
            if not any(file.metadata.row_group(i).num_rows for i in groups):
                yield file.schema_arrow.empty_table().select(list(names))
    except (pyarrow.ArrowException, OSError) as error:
        raise refused(path, error, again) from None


def _may_have(file: pyarrow.parquet.ParquetFile, group: int, task: int) -> bool:
    """Whether rows of the task may be among these, by their bounds."""
    bounds = file.metadata.row_group(group).column(file.schema_arrow.names.index("task")).statistics
    return bounds is None or not bounds.has_min_max or bounds.min <= task <= bounds.max


def _refuse_absent(file: pyarrow.parquet.ParquetFile, names: Sequence[str]) -> None:
    """Refuse a column that is not there: pyarrow leaves it out without a word."""
    if absent := sorted(set(names) - set(file.schema_arrow.names)):
        raise pyarrow.ArrowInvalid(f"no column {', '.join(absent)}")


def inventory_digest(run: RunDir) -> str:
    """The SHA-256 that the inventory had when it was written.

    Raises:
        RequestError: its file of digests is gone or damaged.
    """
    try:
        return str(read_sealed(run.inventory_seal, "index")["sha256"])
    except (FileNotFoundError, KeyError) as error:
        raise refused(run.inventory_seal, error, "index") from None
