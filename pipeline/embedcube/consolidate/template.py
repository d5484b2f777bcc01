"""The cube before it holds any shard: groups, coordinates, empty arrays, attributes."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from embedcube.campaign.plan import LayerPlan
from embedcube.campaign.schema import Campaign, Layer
from embedcube.consolidate.assemble import Kind
from embedcube.consolidate.attributes import (
    array_attributes,
    coordinate_attributes,
    root_attributes,
    spatial_ref_attributes,
    zone_attributes,
)
from embedcube.consolidate.listed import sample_coordinates
from embedcube.cube.arrays import ArraySpec, layer_specs
from embedcube.cube.encoding import OFFSET
from embedcube.grid import Grid
from embedcube.windows import Window
from embedcube.zones import SampleList


def write_template(campaign: Campaign, layers: Mapping[str, LayerPlan], cube: Path) -> None:
    """Write all metadata and coordinates below `cube`. Writing again over the same cube changes nothing.

    The metadata of the layers is consolidated in the root. That of `provenance/` is not: it differs between runs, and
    the root must not.
    """
    root = zarr.open_group(cube, mode="a", zarr_format=3, use_consolidated=False)
    root.update_attributes(root_attributes(campaign))
    for name, planned in layers.items():
        for zone in planned.zones:
            group = root.require_group(name).require_group(zone)
            _write_zone(group, campaign.layers[name], planned, campaign.all_windows)
    with warnings.catch_warnings():
        # zarr-python says that consolidated metadata is its own extension; readers without it ignore it
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(root.store, zarr_format=3)


def _write_zone(zone: zarr.Group, layer: Layer, planned: LayerPlan, windows: tuple[Window, ...]) -> None:
    place, grid, layout = planned.zones[zone.basename], planned.zone(zone.basename), planned.layout
    zone.update_attributes(zone_attributes(layer, planned, zone.basename))
    sizes = {"time": len(windows), "feature": planned.dimensions}
    if isinstance(grid, SampleList):
        sizes |= {"sample": len(grid), "y": layout.chip_cells, "x": layout.chip_cells}
    else:
        sizes |= {"y": place.rows * layout.shard_cells, "x": place.cols * layout.shard_cells}
    for spec in cube_specs(planned):
        shape = tuple(sizes[name] for name in spec.dimensions)
        if spec.name not in zone:
            about = array_attributes(
                spec.name, planned.encoding, mapped=isinstance(grid, Grid), centred=bool(planned.offset)
            )
            spec.create(zone.store, f"{zone.path}/{spec.name}", shape, about)
    _write_times(zone, windows)
    features = np.arange(planned.dimensions, dtype=np.int32)
    _coordinate(zone, "feature", ("feature",), features, {"long_name": "number of the vector", "units": "1"})
    if planned.offset:
        about = {"long_name": "mean of the feature, to be added: value = embedding * scale + offset", "units": "1"}
        _coordinate(zone, OFFSET, ("feature",), np.array(planned.offset, np.float32), about)
    if isinstance(grid, SampleList):
        for name, one in sample_coordinates(grid, layout).items():
            _coordinate(zone, name, *one)
        return
    area = place.area(layout)
    for axis, centres in zip(("x", "y"), grid.centres(area, layout.cell_px), strict=True):
        _coordinate(zone, axis, (axis,), centres, coordinate_attributes(grid, axis))
    mapping = spatial_ref_attributes(grid, area, layout.cell_px)
    _coordinate(zone, "spatial_ref", (), np.array(0, dtype=np.int64), mapping)


def _write_times(zone: zarr.Group, windows: tuple[Window, ...]) -> None:
    units = {"units": "seconds since 1970-01-01T00:00:00Z", "calendar": "proleptic_gregorian"}
    bounds = np.array([[int(w.start.timestamp()), int(w.end.timestamp())] for w in windows], dtype=np.int64)
    about = {"standard_name": "time", "long_name": "start of the window", "axis": "T", "bounds": "time_bnds"}
    about["units_metadata"] = "leap_seconds: utc"  # bounds inherit it and may not repeat it (CF 7.1)
    _coordinate(zone, "time", ("time",), bounds[:, 0], about | units)
    _coordinate(zone, "time_bnds", ("time", "bnds"), bounds, units)


def _coordinate(
    zone: zarr.Group, name: str, dimensions: tuple[str, ...], values: NDArray[Any], attributes: dict[str, Any]
) -> None:
    zone.create_array(
        name,
        data=values,
        chunks=values.shape if values.shape else "auto",
        dimension_names=dimensions,
        attributes=attributes,
        overwrite=True,
    )


def kinds_of(planned: LayerPlan) -> tuple[Kind, ...]:
    """How the objects of each array of a layer are made."""
    cells = planned.layout.slots if planned.samples is not None else planned.layout.shard_cells
    specs = zip(part_specs(planned), member_specs(planned), cube_specs(planned), strict=True)
    return tuple(Kind(part=part, member=member, cube=cube, cells=cells) for part, member, cube in specs)


def cube_specs(planned: LayerPlan) -> tuple[ArraySpec, ...]:
    """The layer's arrays as the cube holds them: many shards in an object, `chunk_windows` windows in a chunk."""
    return tuple(spec.in_objects(planned.objects) for spec in member_specs(planned))


def member_specs(planned: LayerPlan) -> tuple[ArraySpec, ...]:
    """The layer's arrays, as the members of its objects are: one shard, `chunk_windows` windows."""
    return _specs(planned, planned.chunk_windows)


def part_specs(planned: LayerPlan) -> tuple[ArraySpec, ...]:
    """The layer's arrays as the parts hold them: one shard, one window."""
    return _specs(planned, windows=1)


def _specs(planned: LayerPlan, windows: int) -> tuple[ArraySpec, ...]:
    return layer_specs(
        planned.layout,
        dimensions=planned.dimensions,
        encoding=planned.encoding,
        windows=windows,
    )
