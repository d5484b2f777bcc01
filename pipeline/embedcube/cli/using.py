"""Verbs that use a cube: what is in it, the vectors of points, statistics of parcels."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedcube.cli.options import AsJson, CubePlace, LayerName, Moment, layer_of, teller
from embedcube.errors import RequestError
from embedcube.progress import shown

if TYPE_CHECKING:
    from embedcube.cube.reader import Cube

verbs = typer.Typer()

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .parquet or .geojson.")]


@verbs.command()
def info(cube: CubePlace, as_json: AsJson = False) -> None:
    """Show what a cube holds.  Example: embedcube info cube.zarr"""
    from embedcube.cube.reader import Cube

    opened = Cube(cube)
    print(json.dumps(_described(opened)) if as_json else opened)


@verbs.command()
def sample(
    cube: CubePlace,
    points: Annotated[
        Path | None, typer.Argument(metavar="[POINTS.geojson]", help="File of points; a CSV has columns lon and lat.")
    ] = None,
    at: Annotated[list[str] | None, typer.Option(metavar="LON,LAT", help="A point; may be repeated.")] = None,
    moment: Moment = None,
    layer: LayerName = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Read the vectors of points over time.  Example: embedcube sample cube.zarr points.geojson -o vectors.parquet"""
    from embedcube.uses.tables import check_suffix, read_places, sampled_table, status_names, window_names, write_table

    check_suffix(out)
    if (points is None) == (not at):
        raise RequestError("name a file of points, or points with --at, for example --at 7.6,50.87")
    asked = layer_of(cube, layer)
    found = asked.sample([_pair(text) for text in at or []] if points is None else read_places(points), moment)
    names, windows = status_names(found), window_names(found)
    if out is not None:
        write_table(sampled_table(found), out)
    counts = dict(Counter(names.ravel().tolist()))
    if as_json:
        rows = [
            {"point": _plain(point), "lon": _number(lon), "lat": _number(lat), "zone": zone, "y": y, "x": x,
             "status": status}
            for point, lon, lat, zone, y, x, status in zip(
                *(found[name].values.tolist() for name in ("point", "lon", "lat", "zone", "y", "x")),
                names.tolist(), strict=True,
            )
        ]  # fmt: skip
        answer = {"cube": asked.cube.address, "layer": asked.name, "windows": windows, "t": found["t"].values.tolist()}
        print(json.dumps(answer | {"points": rows, "status": counts, "out": None if out is None else str(out)}))
        return
    _say_sampled(found, names, windows, counts, out)
    if set(counts) == {"outside"}:
        print(
            f"all points are outside: layer {asked.name} is in {','.join(f'{one:g}' for one in asked.bounds)} degrees"
        )


@verbs.command()
def parcels(
    cube: CubePlace,
    polygons: Annotated[Path, typer.Argument(metavar="FIELDS.geojson", help="File of polygons, of any CRS.")],
    stats: Annotated[str, typer.Option(help="Of mean, std and count, with commas between.")] = "mean,std,count",
    moment: Moment = None,
    layer: LayerName = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Compute statistics of polygons.  Example: embedcube parcels cube.zarr fields.geojson -o table.parquet"""
    from embedcube.cube.parcels import parcels as statistics
    from embedcube.uses.tables import check_suffix, parcels_table, read_places, window_names, write_table

    check_suffix(out)
    asked, read = layer_of(cube, layer), read_places(polygons)
    with shown("parcels", "blocks", teller(as_json)) as progress:
        found = statistics(asked.cube, asked.name, read, moment, tuple(stats.split(",")), progress)
    if out is not None:
        write_table(parcels_table(found, read), out)
    windows, counts, shares = window_names(found), found["count"].values, found["valid_share"].values
    if as_json:
        rows = [
            {"parcel": _plain(parcel), "cells": cells, "count": count, "valid_share": [_number(one) for one in share]}
            for parcel, cells, count, share in zip(
                found["parcel"].values.tolist(), found["cells"].values.tolist(), counts.tolist(), shares.tolist(),
                strict=True,
            )
        ]  # fmt: skip
        answer = {"cube": asked.cube.address, "layer": asked.name, "windows": windows, "parcels": rows}
        print(json.dumps(answer | {"out": None if out is None else str(out)}))
        return
    for t, window in enumerate(windows):
        empty = int((counts[:, t] == 0).sum())
        many = f"{len(counts)} parcel{'s' if len(counts) != 1 else ''}"
        print(f"{window:<22}  {counts[:, t].sum():,} cells with a vector in {many}, {empty} without any")
    if not found["cells"].values.any():
        print(
            f"all parcels are outside: layer {asked.name} is in {','.join(f'{one:g}' for one in asked.bounds)} degrees"
        )
    print(f"wrote {out}" if out is not None else "the statistics: -o FILE.parquet, .csv or .geojson")


def _say_sampled(found: Any, names: Any, windows: list[str], counts: dict[str, int], out: Path | None) -> None:
    """Print the status of the first points in each window, and how often each status occurs."""
    most = 20
    print(
        "point       lon         lat        zone              " + "  ".join(f"{window:<22}" for window in windows[:4])
    )
    for i in range(min(most, found.sizes["point"])):
        place = f"{float(found['lon'][i]):>10.5f}  {float(found['lat'][i]):>9.5f}"
        zone, states = str(found["zone"][i].item()), "  ".join(f"{name:<22}" for name in names[i, :4])
        print(f"{found['point'][i].item()!s:<10}  {place}  {zone:<16}  {states}".rstrip())
    if found.sizes["point"] > most or len(windows) > 4:
        print(f"... {found.sizes['point']} points in {len(windows)} windows")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    print(f"wrote {out}" if out is not None else "the vectors: -o FILE.parquet, .csv or .geojson")


def _described(cube: "Cube") -> dict[str, Any]:
    """What `info --json` prints."""
    layers = {}
    for name in cube.layers:
        zones = cube.zones_of(name)
        embedding, about = cube.array(zones[0], "embedding"), cube.group(zones[0]).attrs
        try:
            shares = {status: round(share, 6) for status, share in cube.status_shares(name).items()}
        except RequestError:
            shares = None
        layers[name] = {
            "zones": list(zones),
            "crs": about.get("proj:code"),
            "cell": about["spatial:transform"][0],
            "features": embedding.shape[3],
            "encoding": str(embedding.dtype),
            "model": cube.model(zones[0]),
            "weights_sha256": about.get("embedcube:weights_sha256"),
            "windows": [window.short for window in cube.windows(zones[0])],
            "status": shares,
        }
    return {"cube": cube.address, "version": cube.version, "campaign": cube.campaign, "layers": layers}


def _pair(text: str) -> tuple[float, float]:
    try:
        lon, lat = map(float, text.split(","))
    except ValueError:
        lon = lat = math.nan
    if not (abs(lon) <= 360 and abs(lat) <= 90):
        raise RequestError(f"--at {text}: a point is LON,LAT in degrees, for example 7.6,50.87")
    return lon, lat


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(value)


def _number(value: float) -> float | None:
    return value if value == value else None
