"""`find --catalogue`: one search over the cubes of several centres, and what it prints."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcube.errors import RequestError, WorkError
from embedcube.progress import Say

if TYPE_CHECKING:
    from embedcube.uses.federation import Federated
    from embedcube.uses.holders import Question


def find_at_centres(catalogue: str, question: "Question", out: Path | None, say: Say | None) -> None:
    """Search the cubes of a catalogue and print the hits; as JSON where there is no `say`.

    Raises:
        WorkError: a centre is down or refuses; the hits of the others have been printed, and written to `out`.
    """
    try:
        from embedcube.uses.centres import read_catalogue
        from embedcube.uses.federation import find_at_all
        from embedcube.uses.tables import write_table
    except ModuleNotFoundError as error:
        raise RequestError(f"{error.name} is not installed; `pip install 'embedcube[remote]'`") from None

    found = find_at_all(read_catalogue(catalogue), question)
    if out is not None:
        write_table(_table(found), out)
    if say is None:
        print(json.dumps(asdict(found) | {"complete": not found.missing, "out": str(out) if out else None}))
    else:
        _say(found, say)
    if found.missing:
        named = "; ".join(f"{one.centre} {one.state}: {one.reason}" for one in found.missing)
        raise WorkError(f"{len(found.missing)} of {len(found.centres)} centres are missing in these hits: {named}")


def _say(found: "Federated", say: Say) -> None:
    say("rank  cosine      lon         lat        window                  status            centre, cell")
    for hit in found.hits:
        say(
            f"{hit.rank:>4}  {hit.cosine:.6f}  {hit.lon:>10.5f}  {hit.lat:>9.5f}  {hit.window:<22}  {hit.status:<16}  "
            f"{hit.centre}, {hit.layer}/{hit.zone} t {hit.t} y {hit.y} x {hit.x}"
        )
    for one in found.centres:
        say(f"{one.centre}: {one.state}, {one.hits} of the hits, version {one.version or 'unknown'}")


def _table(found: "Federated") -> Any:
    import geopandas

    rows = [asdict(hit) for hit in found.hits]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ("rank", "lon", "lat"))}
    return geopandas.GeoDataFrame(
        columns, geometry=geopandas.points_from_xy(columns["lon"], columns["lat"]), crs="EPSG:4326"
    )
