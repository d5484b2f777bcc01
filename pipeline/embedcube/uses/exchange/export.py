"""`embedcube export`: from a cube, a choice and a form to files."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.progress import Progress
from embedcube.uses.exchange.chosen import Chosen
from embedcube.uses.exchange.codecs import Smaller
from embedcube.uses.exchange.part import Exported, export_part
from embedcube.uses.exchange.reduced import export_reduced

Form = Literal["bundle", "geoparquet", "major-tom", "neuco-csv", "terratorch-tiff", "terratorch-parquet", "pt"]


def export(
    source: str, out: Path, form: Form, chosen: Chosen, smaller: Smaller | None, progress: Progress, *,
    tile: int = 16, dry_run: bool = False,
) -> Exported:  # fmt: skip
    """Write a part of a cube in a form for others; `smaller` makes its vectors smaller (bundle, geoparquet).

    A cube on another machine is copied first, beside `out`: the part that is asked for.

    Raises:
        RequestError: the form does not take what is asked, or nothing is in what was chosen.
        WorkError: the cube is damaged.
    """
    if smaller and form not in ("bundle", "geoparquet"):
        raise RequestError(f"--features and --bits go with --as bundle and geoparquet, not with {form}")
    if dry_run and "://" in source:
        raise RequestError("--dry-run needs a cube on this machine; `embedcube pull` copies a part of a remote one")
    with _here(source, out, chosen, progress) as cube:
        if form == "bundle":
            if smaller:
                return export_reduced(cube, out, chosen, smaller, progress, dry_run=dry_run)
            return export_part(cube, out, chosen, progress, dry_run=dry_run)
        if form == "geoparquet" or form == "major-tom":
            from embedcube.uses.exchange.tables import export_table

            tom = form == "major-tom"
            return export_table(cube, out, chosen, progress, major_tom=tom, smaller=smaller, dry_run=dry_run)
        if form == "neuco-csv":
            from embedcube.uses.exchange.for_neuco import export_neuco

            return export_neuco(cube, out, chosen, progress, dry_run=dry_run)
        from embedcube.uses.exchange.for_terratorch import export_terratorch

        return export_terratorch(cube, out, chosen, form, progress, tile=tile, dry_run=dry_run)


@contextmanager
def _here(source: str, out: Path, chosen: Chosen, progress: Progress) -> Iterator[Cube]:
    """The cube as a folder of this machine."""
    if "://" not in source:
        yield Cube(source)
        return
    from embedcube.uses.pull import pull
    from embedcube.uses.remote import Address

    folder = out.with_name(f".{out.name}.pulled")
    pulled = pull(Address(url=source), folder, progress, box=chosen.box, time=chosen.time, layers=chosen.layers)
    if pulled.damaged:
        raise WorkError(f"damaged in the remote cube: {'; '.join(pulled.damaged[:3])}")
    yield Cube(pulled.cube)
    shutil.rmtree(folder)
