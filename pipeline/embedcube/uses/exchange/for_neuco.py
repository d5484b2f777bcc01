"""The CSV of NeuCo-Bench: a row for each cell, `id` and the numbers of its vector in the columns 0, 1, ..."""

import csv
from pathlib import Path

import numpy as np

from embedcube.campaign.run_folder import replacing
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.progress import Progress
from embedcube.uses.exchange.chosen import Chosen, one_layer
from embedcube.uses.exchange.part import Exported
from embedcube.uses.exchange.rows import batches, cells_of

_NUMBER_BYTES = 14


def export_neuco(cube: Cube, out: Path, chosen: Chosen, progress: Progress, *, dry_run: bool = False) -> Exported:
    """Write the CSV. Names of cells are ZONE/ROW/COLUMN, those of samples their ids.

    Where several windows are chosen, the start of the window follows the name.

    Cells without a vector have no row: the benchmark would take them for vectors of zeros.

    Raises:
        RequestError: several layers are chosen, or no cell has a vector.
    """
    layer = one_layer(cube, chosen)
    features = int(cube.array(cube.zones_of(layer)[0], "embedding").shape[-1])
    cells = cells_of(cube, layer, chosen)
    several = len(cube.windows_of(cube.zones_of(layer)[0], chosen.time)) > 1
    if not cells:
        raise RequestError(f"no cell of layer {layer} with a vector is in what was asked for")
    if dry_run:
        return Exported(files=[out], bytes=cells * features * _NUMBER_BYTES, cells=cells, exact=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", *map(str, range(features))])
        for batch in batches(cube, layer, chosen):
            more = f"/{batch.window.start:%Y-%m-%dT%H%M%S}".removesuffix("T000000") if several else ""
            for name, vector in zip(batch.ids, batch.vectors, strict=True):
                rows.writerow([f"{name}{more}", *(np.format_float_scientific(one, unique=True) for one in vector)])
            progress(done := done + len(batch), cells)
    return Exported(files=[out], bytes=out.stat().st_size, cells=cells)
