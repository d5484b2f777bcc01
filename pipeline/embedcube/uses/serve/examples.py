"""What searches are asked by, as JSON: places, cells, polygons and vectors; what they become, and what they cost."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator
from shapely.geometry.base import BaseGeometry

from embedcube.cube.store import Cell, CubeStore
from embedcube.cube.within import geometry_of
from embedcube.errors import RequestError
from embedcube.uses.serve.extent import Cost, of_points, of_polygons, refuse_long_outlines, total
from embedcube.uses.serve.holdings import Holding
from embedcube.uses.serve.limits import Limits, refuse_above

Number = Annotated[float, Field(allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
TimeText = Annotated[str, Field(max_length=64)]
Bbox = tuple[Longitude, Latitude, Longitude, Latitude]


_MOST_KEYS = 32
"""keys of one object of a body: each unknown one would be an error, and a body has room for a million"""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_KEYS:
            raise ValueError(f"an object with {len(value):,} keys, at most {_MOST_KEYS} can be asked for")
        return value


class Place(_Body):
    """The cell that holds a place."""

    lon: Longitude
    lat: Latitude


class CellOf(_Body):
    """A cell, as answers name it."""

    zone: Annotated[str, Field(max_length=64, description='Name of the zone, such as "utm32".')]
    t: Annotated[int, Field(ge=0, le=1_000_000)]
    y: Annotated[int, Field(ge=0, le=100_000_000)]
    x: Annotated[int, Field(ge=0, le=100_000_000)]


class Polygon(_Body):
    """The mean of the vectors in a polygon; GeoJSON, in degrees."""

    type: Literal["Polygon", "MultiPolygon"]
    coordinates: list[Any]


class Vector(_Body):
    """A vector of the layer's length, as `point` gives it."""

    vector: Annotated[list[Number], FailFast(), Field(min_length=1, max_length=65_536)]


Example = Place | CellOf | Polygon | Vector
# as bodies are checked before a request waits for its turn: their number first, and the first error ends the check
Like = Annotated[
    list[Example], FailFast(), Field(min_length=1, max_length=Limits.examples, description="What hits are to be like.")
]
Unlike = Annotated[
    list[Example], FailFast(), Field(max_length=Limits.examples, description="What hits are not to be like.")
]
Within = Bbox | Polygon


class SimilarBody(_Body):
    """A map of similarity of one window."""

    like: Like
    unlike: Unlike = []
    zone: Annotated[str, Field(max_length=64)] | None = None
    time: TimeText | None = None
    type: Literal["uint8", "float32"] = "uint8"


class FindBody(_Body):
    """A search for similar places."""

    like: Like
    unlike: Unlike = []
    k: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    time: TimeText | None = None
    within: Within | None = None
    apart_m: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] | None = None


class ChangeBody(_Body):
    """A map of change: windows of the past, and the windows that are compared with them."""

    before: TimeText
    after: TimeText
    zone: Annotated[str, Field(max_length=64)] | None = None
    type: Literal["uint8", "float32"] = "uint8"


class VectorsBody(_Body):
    """A question for the vectors of examples."""

    like: Like
    time: TimeText | None = None


def geometry(polygon: Polygon, limits: Limits) -> BaseGeometry:
    """The geometry of GeoJSON in degrees.

    Raises:
        RequestError: it is none, or a coordinate is no longitude and latitude.
    """
    try:
        # numbers that are not finite are told below, in words
        with np.errstate(invalid="ignore"):
            found = shapely.geometry.shape({"type": polygon.type, "coordinates": polygon.coordinates})
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, shapely.errors.ShapelyError) as error:
        raise RequestError(f"not a {polygon.type} of GeoJSON: {str(error)[:200]}") from None
    return checked(found, limits)


def checked(found: BaseGeometry, limits: Limits) -> BaseGeometry:
    """A geometry whose coordinates are degrees; a RequestError or TooMuch says what is wrong."""
    refuse_above("vertices", int(shapely.get_num_coordinates(found)), limits.vertices)
    xy = shapely.get_coordinates(found)
    if not len(xy) or not np.isfinite(xy).all() or (np.abs(xy) > (360, 90)).any():
        raise RequestError("coordinates of a polygon are longitude and latitude in degrees, finite numbers")
    if not shapely.is_valid(found):
        reason = str(shapely.is_valid_reason(found))
        raise RequestError(f"edges of a polygon do not touch or cross each other ({reason}); draw it in another way")
    return found


def region(within: Within | None, limits: Limits) -> BaseGeometry | None:
    """What `Layer` takes as `within`."""
    if within is None or isinstance(within, tuple):
        return within if within is None else geometry_of(within)
    return geometry(within, limits)


def as_asked(examples: Sequence[Example], cube: CubeStore, layer: str, limits: Limits) -> list[Any]:
    """What `Layer` takes as `like`: cells, pairs of degrees, geometries and vectors."""
    refuse_above("examples", len(examples), limits.examples)
    asked: list[Any] = []
    for one in examples:
        if isinstance(one, Place):
            asked.append((one.lon, one.lat))
        elif isinstance(one, CellOf):
            asked.append(_cell(one, cube, layer))
        elif isinstance(one, Polygon):
            asked.append(geometry(one, limits))
        else:
            asked.append(_vector(one, int(cube.array(cube.zones_of(layer)[0], "embedding").shape[-1])))
    return asked


def cost_of(holding: Holding, layer: str, examples: Sequence[Any], time: str | None, limits: Limits) -> Cost:
    """What reading the vectors of examples costs, as `as_asked` gives them; TooMuch where drawing them alone is."""
    zones = holding.layer(layer).zones
    polygons = [one for one in examples if isinstance(one, BaseGeometry)]
    cells = sum(isinstance(one, Cell) for one in examples)
    places = sum(isinstance(one, tuple) for one in examples)
    first = zones[0]
    # a place is looked for in all windows, a cell is one of them
    cost = of_points(holding.cube, first, holding.windows(first, time), places) + of_points(
        holding.cube, first, [0], cells
    )
    if polygons:
        cost += total(of_polygons(holding.cube, zone, holding.windows(zone, time), polygons) for zone in zones)
        cost.refuse("cells in and around the polygons", limits)
        refuse_long_outlines(holding.cube, zones, polygons, limits)
    return cost


def _cell(one: CellOf, cube: CubeStore, layer: str) -> Cell:
    zone = f"{layer}/{one.zone}"
    if zone not in cube.zones_of(layer):
        raise RequestError(f"layer {layer} has no such zone; it has {', '.join(cube.zones_of(layer))}")
    windows, rows, columns = cube.array(zone, "status").shape
    if one.t >= windows or one.y >= rows or one.x >= columns:
        raise RequestError(f"{zone} has {windows} windows of {rows} x {columns} cells, all counted from 0")
    return Cell(zone=zone, t=one.t, y=one.y, x=one.x)


def _vector(one: Vector, features: int) -> NDArray[np.float64]:
    if len(one.vector) != features:
        raise RequestError(f"a vector of {len(one.vector)} numbers; those of the layer have {features}")
    vector = np.asarray(one.vector, np.float64)
    if not np.any(vector):
        raise RequestError("a vector of zeros has no direction")
    return vector
