"""STAC beside a cube, made from its metadata: a Collection, an Item for each zone, and one for the model of each layer.

STAC 1.1 with the extensions projection, datacube and processing, and for the models mlm (`model_item.py`); beside them
the fields of the proposal `emb` 0.0.1, which has no published schema. Unlike the arrays of the cube, these files name
software, devices, time and energy: they differ between two runs that give the same bytes.
"""

import json
from datetime import UTC, datetime
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from pyproj import CRS, Transformer
from shapely.geometry import mapping

from embedcube.campaign.boxes import GLOBE, Box, footprint, in_range
from embedcube.campaign.run_folder import write_atomically
from embedcube.consolidate.model_item import add_weights, model_item
from embedcube.consolidate.seal import SEAL, seal_of
from embedcube.cube.encoding import OFFSET
from embedcube.cube.listed import is_list
from embedcube.cube.reader import Cube

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/datacube/v2.3.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]


_TITLE, _ROLES = "Zarr group of the vectors", ["data"]


def write_catalogue(cube: Path, folder: Path, weights: Path) -> None:
    """Write the Items, then `collection.json`, to `folder`; each file replaces an earlier one whole.

    `weights` is the folder that holds the frozen weights of each layer.
    """
    opened = Cube(cube)
    provenance = opened.provenance.attributes
    models = {layer: model_item(opened, layer) for layer in opened.layers}
    items = [_item(opened, zone, provenance) for zone in opened.zones]
    times = [(item.common_metadata.start_datetime, item.common_metadata.end_datetime) for item in items]
    collection = pystac.Collection(
        id=provenance["campaign"],
        title=f"{provenance['campaign']}, version {opened.version}",
        description=f"Embeddings of campaign {provenance['campaign']}",
        license="other",
        extent=pystac.Extent(
            pystac.SpatialExtent([item.bbox for item in items if item.bbox]),
            pystac.TemporalExtent([[min(s for s, _ in times if s), max(e for _, e in times if e)]]),
        ),
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    collection.extra_fields[SEAL] = seal_of(cube)
    collection.item_assets = {
        "embeddings": pystac.ItemAssetDefinition.create(_TITLE, None, str(pystac.MediaType.ZARR), _ROLES)
    }
    collection.add_items([*items, *models.values()])
    collection.normalize_hrefs(str(folder))
    for item in items:
        # the cube lies beside the catalogue: wherever both are taken together, this finds it
        item.add_asset("embeddings", _asset(f"../../{cube.name}/{item.properties['embedcube:zone']}"))
        item.add_derived_from(models[item.properties["embedcube:zone"].split("/")[0]])
    collection.add_asset("cube", _asset(f"../{cube.name}"))
    for layer, model in models.items():
        # from the folder of the Item, which lies in `folder`
        add_weights(model, relpath(weights / f"{layer}.safetensors", folder / model.id))
    for one in (*items, *models.values(), collection):
        path = Path(one.get_self_href() or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(one.to_dict(include_self_link=False), indent=1).encode())


def _item(cube: Cube, zone: str, provenance: dict[str, Any]) -> pystac.Item:
    group = cube.group(zone)
    about = group.attrs.asdict()
    bbox = _around(group) if is_list(zone) else _degrees(_of_shards(cube, zone), about["proj:wkt2"])
    named = list(group["status"].metadata.dimension_names)
    starts_s, ends_s = group["time_bnds"][:].T.tolist()
    beside = ("scale", "status", "n_obs") if cube.has_scale(zone) else ("status", "n_obs")
    properties = {
        "embedcube:zone": zone,
        "proj:code": about.get("proj:code"),
        "proj:wkt2": about.get("proj:wkt2"),
        "proj:shape": about.get("spatial:shape"),
        "proj:transform": about.get("spatial:transform"),
        "proj:bbox": about.get("spatial:bbox"),
        "cube:dimensions": _dimensions(group, about, starts_s, ends_s),
        "cube:variables": {
            "embedding": {"type": "data", "dimensions": [*named, "feature"], "unit": "1"},
            **{name: {"type": "auxiliary", "dimensions": named} for name in beside},
            **({} if cube.offset(zone) is None else {OFFSET: {"type": "auxiliary", "dimensions": ["feature"]}}),
        },
        "emb:type": about["geoemb:type"],
        "emb:dimensions": about["geoemb:dimensions"],
        "emb:data_type": about["geoemb:data_type"],
        "emb:quantization": about.get("geoemb:quantization"),
        "emb:energy": _energy(provenance["receipts"][zone]),
        "processing:software": provenance["versions"],
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
    for model in about.get("embedcube:models", [about["geoemb:model"]]):
        item.add_link(pystac.Link("emb:model", model))
    for source in about["geoemb:source_data"]:
        item.add_link(pystac.Link("emb:source-data", source))
    return item


def _of_shards(cube: Cube, zone: str) -> tuple[float, float, float, float]:
    """Box of the cells of all shards; the arrays reach further, to the borders of objects."""
    rows, columns = cube.cells_of_shards(zone)
    a, _, left, _, e, top = cube.group(zone).attrs["spatial:transform"]
    return left + columns.start * a, top + rows.stop * e, left + columns.stop * a, top + rows.start * e


def _dimensions(group: Any, about: dict[str, Any], starts_s: list[int], ends_s: list[int]) -> dict[str, Any]:
    extent = [datetime.fromtimestamp(s, UTC).isoformat() for s in (min(starts_s), max(ends_s))]
    always = {
        "time": {"type": "temporal", "extent": extent},
        "feature": {"type": "bands", "values": list(range(about["geoemb:dimensions"]))},
    }
    if "spatial:bbox" not in about:
        sizes = dict(zip(group["status"].metadata.dimension_names, group["status"].shape, strict=True))
        counted = {name: {"type": name, "extent": [0, sizes[name] - 1]} for name in sizes if name != "time"}
        return counted | always
    xmin, ymin, xmax, ymax = about["spatial:bbox"]
    system = about.get("proj:code") or about["proj:wkt2"]
    reference = int(system.removeprefix("EPSG:")) if system.startswith("EPSG:") else system
    return {
        "x": {"type": "spatial", "axis": "x", "extent": [xmin, xmax], "reference_system": reference},
        "y": {"type": "spatial", "axis": "y", "extent": [ymin, ymax], "reference_system": reference},
    } | always


def _around(group: Any) -> Box:
    """West, south, east, north around the centres of samples; the globe where no place is known."""
    lon, lat = (np.asarray(group[name][...]) for name in ("lon", "lat"))
    if not np.isfinite(lon).any():
        return GLOBE
    return float(np.nanmin(lon)), float(np.nanmin(lat)), float(np.nanmax(lon)), float(np.nanmax(lat))


def _energy(receipt: dict[str, Any]) -> dict[str, Any]:
    """The field `emb:energy`, without `energy_kwh` where no meter was read."""
    energy = {"device_type": ", ".join(receipt["devices"]), "inference_duration_s": receipt["device_s"]}
    return energy | ({"energy_kwh": receipt["energy_kwh"]} if receipt["energy_kwh"] is not None else {})


def _degrees(bounds: tuple[float, float, float, float], wkt: str) -> Box:
    """West, south, east, north around a group; across the antimeridian west is the larger number."""
    left, bottom, right, top = bounds
    crs = CRS.from_wkt(wkt)
    if crs.is_geographic:
        return in_range((left, bottom, right, top))
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(left, bottom, right, top)
    return west, south, east, north


def _asset(href: str) -> pystac.Asset:
    return pystac.Asset(href, media_type=pystac.MediaType.ZARR, roles=_ROLES, title=_TITLE)
