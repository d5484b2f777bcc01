"""A cube -> STAC beside it: a Collection, and an Item for each group of a layer on one grid, made of what it says.

STAC 1.1 with the extensions projection, datacube, processing and mlm, and the fields of the proposal `emb` 0.0.1, which
has no published schema. Unlike the cube, these files also say who made it with what, and what that cost: they differ
between two runs that give the same bytes.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
from pyproj import CRS, Transformer
from shapely.geometry import mapping

from embedcube.campaign.boxes import Box, footprint, in_range
from embedcube.campaign.run_folder import write_atomically
from embedcube.cube.reader import Cube

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/datacube/v2.2.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
]


def write_catalogue(cube: Path, folder: Path) -> None:
    """Write the Items, then `collection.json`, to `folder`; the same files as before are replaced, each whole."""
    opened = Cube(cube)
    said = opened.provenance.attributes
    items = [_item(opened, zone, said) for zone in opened.zones]
    times = [(item.common_metadata.start_datetime, item.common_metadata.end_datetime) for item in items]
    collection = pystac.Collection(
        id=said["campaign"],
        description=f"Embeddings of campaign {said['campaign']}",
        license="other",
        extent=pystac.Extent(
            pystac.SpatialExtent([item.bbox for item in items if item.bbox]),
            pystac.TemporalExtent([[min(s for s, _ in times if s), max(e for _, e in times if e)]]),
        ),
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    collection.add_items(items)
    collection.normalize_hrefs(str(folder))
    for item in items:
        # the cube lies beside the catalogue: wherever both are taken together, this finds it
        item.add_asset("embeddings", _asset(f"../../{cube.name}/{item.properties['embedcube:zone']}"))
    for one in (*items, collection):
        path = Path(one.get_self_href() or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(one.to_dict(include_self_link=False), indent=1).encode())


def _item(cube: Cube, zone: str, said: dict[str, Any]) -> pystac.Item:
    group = cube.group(zone)
    about = group.attrs.asdict()
    bbox = _degrees(about["spatial:bbox"], about["proj:wkt2"])
    starts_s, ends_s = group["time_bnds"][:].T.tolist()
    properties = {
        "embedcube:zone": zone,
        "proj:code": about.get("proj:code"),
        "proj:wkt2": about["proj:wkt2"],
        "proj:shape": about["spatial:shape"],
        "proj:transform": about["spatial:transform"],
        "proj:bbox": about["spatial:bbox"],
        "cube:dimensions": _dimensions(about, starts_s, ends_s),
        "cube:variables": {
            "embedding": {"type": "data", "dimensions": ["time", "y", "x", "feature"], "unit": "1"},
            "status": {"type": "auxiliary", "dimensions": ["time", "y", "x"]},
            "n_obs": {"type": "auxiliary", "dimensions": ["time", "y", "x"]},
        },
        "emb:type": about["geoemb:type"],
        "emb:dimensions": about["geoemb:dimensions"],
        "emb:data_type": about["geoemb:data_type"],
        "emb:quantization": about.get("geoemb:quantization"),
        "emb:energy": _energy(said["receipts"][zone]),
        "processing:software": said["versions"],
        "mlm:name": about["embedcube:backbone"]["name"],
        "mlm:framework": "pytorch",
        "mlm:tasks": ["representation-learning"],
    }
    item = pystac.Item(
        id=zone.replace("/", "-"),
        geometry=mapping(footprint(bbox)),
        bbox=list(bbox),
        datetime=None,
        start_datetime=datetime.fromtimestamp(min(starts_s), UTC),
        end_datetime=datetime.fromtimestamp(max(ends_s), UTC),
        properties={name: value for name, value in properties.items() if value is not None},
        stac_extensions=EXTENSIONS,
    )
    item.add_link(pystac.Link("emb:model", about["geoemb:model"]))
    for source in about["geoemb:source_data"]:
        item.add_link(pystac.Link("emb:source-data", source))
    return item


def _dimensions(about: dict[str, Any], starts_s: list[int], ends_s: list[int]) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = about["spatial:bbox"]
    system = about.get("proj:code") or about["proj:wkt2"]
    reference = int(system.removeprefix("EPSG:")) if system.startswith("EPSG:") else system
    extent = [datetime.fromtimestamp(s, UTC).isoformat() for s in (min(starts_s), max(ends_s))]
    return {
        "x": {"type": "spatial", "axis": "x", "extent": [xmin, xmax], "reference_system": reference},
        "y": {"type": "spatial", "axis": "y", "extent": [ymin, ymax], "reference_system": reference},
        "time": {"type": "temporal", "extent": extent},
        "feature": {"type": "bands", "values": list(range(about["geoemb:dimensions"]))},
    }


def _energy(receipt: dict[str, Any]) -> dict[str, Any]:
    """Without `energy_kwh` where no meter was read."""
    energy = {"device_type": ", ".join(receipt["devices"]), "inference_duration_s": receipt["device_s"]}
    return energy | ({"energy_kwh": receipt["energy_kwh"]} if receipt["energy_kwh"] is not None else {})


def _degrees(bounds: list[float], wkt: str) -> Box:
    """West, south, east, north around a group; across the antimeridian west is the larger number."""
    left, bottom, right, top = bounds
    crs = CRS.from_wkt(wkt)
    if crs.is_geographic:
        return in_range((left, bottom, right, top))
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(left, bottom, right, top)
    return west, south, east, north


def _asset(href: str) -> pystac.Asset:
    return pystac.Asset(href, media_type="application/vnd.zarr; version=3", roles=["data"], title="Zarr group")
