"""The attributes of a cube: CF-1.11 and the Zarr conventions `proj:`, `spatial:`, `geoemb:`. Only *what*, never how."""

from typing import Any

from pyproj import CRS

from embedcube.campaign.backbone_parts import without_files
from embedcube.campaign.plan import LayerPlan
from embedcube.campaign.schema import Campaign, Layer
from embedcube.consolidate.listed import list_attributes
from embedcube.cube.conventions import GEOEMB, PROJ, SPATIAL
from embedcube.cube.encoding import CENTRED_BOUND, ERROR_BOUNDS, LEAST_COSINE, OFFSET, STATUS_MEANINGS, Encoding
from embedcube.cube.members import SHARD_CELLS
from embedcube.grid import Grid, PixelArea
from embedcube.zones import SampleList


def root_attributes(campaign: Campaign) -> dict[str, Any]:
    """Attributes of the root group."""
    return {
        "Conventions": "CF-1.11",
        "title": f"Embeddings of campaign {campaign.campaign}",
        "embedcube:campaign_digest": campaign.digest,
        "embedcube:what": campaign.what,
    }


def zone_attributes(layer: Layer, planned: LayerPlan, zone: str) -> dict[str, Any]:
    """Attributes of the group that holds a layer's arrays on one grid: `layer` is what the campaign asks for."""
    grid, step = planned.zone(zone), planned.layout.cell_px
    attributes: dict[str, Any] = {"Conventions": "CF-1.11"}
    if isinstance(grid, SampleList):
        attributes |= list_attributes(grid)
    else:
        attributes |= _place_attributes(grid, planned.zones[zone].area(planned.layout), step)
    attributes |= {
        "geoemb:type": "pixel" if step == 1 else "chip",
        "geoemb:dimensions": planned.dimensions,
        "geoemb:model": planned.model.partition(" ")[0],
        "geoemb:source_data": list(planned.collections),
        "geoemb:data_type": planned.encoding,
        "embedcube:backbone": without_files(layer.backbone),
        "embedcube:weights_sha256": planned.weights,
        "embedcube:precision": layer.precision,
        "embedcube:fitted_on": planned.fitted_on,
        "embedcube:error_bound": CENTRED_BOUND if layer.centre else ERROR_BOUNDS[planned.encoding],
        SHARD_CELLS: planned.layout.slots if isinstance(grid, SampleList) else planned.layout.shard_cells,
    }
    if " " in planned.model:
        attributes["embedcube:models"] = planned.model.split()
    if layer.reduce:
        attributes["embedcube:reduce"] = layer.reduce.model_dump()
    if layer.precision != "float32" or layer.compile:
        made = layer.precision + (" compiled" if layer.compile else "")
        attributes["embedcube:precision_bound"] = f"{made} against float32: a cosine of at least {LEAST_COSINE}"
    # behind the model's, where the cubes of before have them: the same campaign keeps its bytes
    for name in ("geoemb:gsd", "proj:code"):
        if name in attributes:
            attributes[name] = attributes.pop(name)
    if step > 1 and not isinstance(grid, SampleList):
        attributes["geoemb:chip_layout"] = {
            "layout_type": "regular_grid",
            "chip_size": [step, step],
            "stride": [step, step],
        }
    if planned.encoding == "int8":
        attributes["geoemb:quantization"] = {
            "method": "per_pixel_scale",
            "original_dtype": "float32",
            "quantized_dtype": "int8",
            "scale": {"type": "array", "array_name": "scale", "nodata": "NaN"},
        }
    if layer.centre:
        # the convention has no place for an offset of each feature: another method, so that nobody leaves it out unseen
        attributes["geoemb:quantization"]["method"] = "per_pixel_scale_and_feature_offset"
        attributes["embedcube:value"] = "embedding * scale + offset"
        attributes["embedcube:offset"] = {"array_name": OFFSET, "dimensions": ["feature"]}
    return attributes


def _place_attributes(grid: Grid, area: PixelArea, step: int) -> dict[str, Any]:
    """What says where the cells of a lattice lie."""
    crs = CRS.from_user_input(grid.crs)
    authority = crs.to_authority()
    attributes: dict[str, Any] = {
        # makes the grid mapping a coordinate in xarray: arithmetic and selections keep the CRS
        "coordinates": "spatial_ref",
        "zarr_conventions": [PROJ, SPATIAL, GEOEMB],
        "proj:wkt2": crs.to_wkt("WKT2_2019"),
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.affine(area, step))[:6],
        "spatial:shape": [area.rows // step, area.cols // step],
        "spatial:bbox": list(grid.bounds(area)),
        "spatial:registration": "pixel",
    }
    if crs.is_projected:
        attributes["geoemb:gsd"] = grid.pixel * crs.axis_info[0].unit_conversion_factor
    if authority:
        attributes["proj:code"] = ":".join(authority)
    return attributes


def array_attributes(name: str, encoding: Encoding, *, mapped: bool = True, centred: bool = False) -> dict[str, Any]:
    """Attributes of one of a layer's arrays; `mapped` says that it is a map, which has a grid mapping.

    CF has no standard name for an embedding, so none is given.
    """
    scaled, more = encoding == "int8", (" + offset", f" {OFFSET}") if centred else ("", "")
    own: dict[str, dict[str, Any]] = {
        "embedding": {
            "long_name": "embedding vector" + (f", value = embedding * scale{more[0]}" if scaled else ""),
            "units": "1",
            "ancillary_variables": "status n_obs" + (f" scale{more[1]}" if scaled else ""),
        },
        "scale": {"long_name": "step of the int8 embedding; NaN where there is no vector", "units": "1"},
        "status": {
            "long_name": "why a cell holds a vector or none",
            "flag_values": list(range(len(STATUS_MEANINGS))),
            "flag_meanings": " ".join(STATUS_MEANINGS),
        },
        "n_obs": {
            "long_name": "distinct acquisitions with at least one clear pixel in the cell",
            "units": "1",
        },
    }
    return own[name] | ({"grid_mapping": "spatial_ref"} if mapped else {})


def spatial_ref_attributes(grid: Grid, area: PixelArea, cell_px: int) -> dict[str, Any]:
    """Attributes of the CF grid mapping variable; GeoTransform is in the order of GDAL."""
    a, b, c, d, e, f = list(grid.affine(area, cell_px))[:6]
    cf: dict[str, Any] = CRS.from_user_input(grid.crs).to_cf()
    return cf | {"GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"}


def coordinate_attributes(grid: Grid, axis: str) -> dict[str, Any]:
    """Attributes of `x` or `y`: the axis of the CRS as CF describes it."""
    for description in CRS.from_user_input(grid.crs).cs_to_cf():
        if description["axis"] == axis.upper():
            return dict(description) | {"long_name": f"{axis} of the cell's centre"}
    return {"axis": axis.upper(), "long_name": f"{axis} of the cell's centre"}
