"""A cube that a search over several centres asks: one that this process reads, or one behind a server of cubes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from embedcube.cube.examples import Wanted, wanted_by
from embedcube.cube.find import Search, default_apart_m, find_query
from embedcube.cube.opening import RemoteStore
from embedcube.cube.reader import Cube, open_cube
from embedcube.cube.similar import Query
from embedcube.errors import RequestError
from embedcube.printable import listed, printable
from embedcube.uses.centres import Centre
from embedcube.uses.remote import Server
from embedcube.uses.serve.places import Places

Place = tuple[float, float]
"""longitude and latitude in degrees"""

Example = Place | BaseGeometry
"""a place, or a polygon in degrees: the mean of its vectors at the first centre that has some"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is searched for."""

    like: Sequence[Example]
    unlike: Sequence[Example] = ()
    layer: str | None = None
    """may be left out where each cube has one"""
    k: int = 10
    time: str | None = None
    within: tuple[float, float, float, float] | BaseGeometry | None = None
    apart_m: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerThere:
    """A layer at a centre."""

    name: str
    weights: str
    version: str
    features: int
    """numbers of a vector"""


class Holder(Protocol):
    """A cube that can be asked."""

    def layer(self, name: str | None) -> LayerThere:
        """The layer with this name, or the only one."""

    def vector(self, layer: str, example: Example, time: str | None) -> tuple[NDArray[Any], list[Place]]:
        """The vector of an example, and the centre of its cell; a RequestError says why there is none."""

    def find(self, layer: str, vector: NDArray[Any], question: Question, k: int) -> tuple[list[dict[str, Any]], float]:
        """Hits, and the metres that they are apart."""


class Local:
    """A cube that this process reads: a folder, or a store at a URL."""

    def __init__(self, centre: Centre) -> None:
        """Open the cube."""
        address = centre.address
        # a store behind a server that asks for a token, such as .../v1/cubes/NAME/files/VERSION.zarr
        token = address.headers if address.url.startswith(("http://", "https://")) else {}
        self._cube: Cube = open_cube(RemoteStore(address.url, token) if token else address.url)

    def layer(self, name: str | None) -> LayerThere:
        """The layer with this name, or the only one."""
        name = _only(name, self._cube.layers)
        zone = self._cube.zones_of(name)[0]
        weights = self._cube.group(zone).attrs.get("embedcube:weights_sha256", "")
        features = int(self._cube.array(zone, "embedding").shape[-1])
        return LayerThere(name=name, weights=str(weights), version=self._cube.version, features=features)

    def vector(self, layer: str, example: Example, time: str | None) -> tuple[NDArray[Any], list[Place]]:
        """The vector of an example, and the centres of its cells."""
        wanted = wanted_by(self._cube, layer, [example], None, time)
        return wanted.query.vector, Places(self._cube, layer).centres(wanted.own)

    def find(self, layer: str, vector: NDArray[Any], question: Question, k: int) -> tuple[list[dict[str, Any]], float]:
        """Hits, and the metres that they are apart."""
        apart_m = default_apart_m(self._cube, layer) if question.apart_m is None else question.apart_m
        asked = Search(k=k, time=question.time, within=question.within, apart_m=apart_m)
        index = self._cube[layer].index if self._cube.is_local else None
        found = find_query(self._cube, layer, Wanted(query=Query.of(vector)), asked, index)
        return [asdict(hit) | {"zone": hit.zone.partition("/")[2]} for hit in found.hits], apart_m


class Served:
    """A cube behind `embedcube serve`."""

    def __init__(self, centre: Centre, timeout_s: float) -> None:
        """Ask what it is."""
        self._server = Server(centre.address, timeout_s)
        self._about = self._server.get("")

    def layer(self, name: str | None) -> LayerThere:
        """The layer with this name, or the only one."""
        name = _only(name, tuple(self._about["layers"]))
        about = self._about["layers"][name]
        weights, version = str(about["weights_sha256"] or ""), str(self._about["version"])
        return LayerThere(name=name, weights=weights, version=version, features=int(about["features"]))

    def vector(self, layer: str, example: Example, time: str | None) -> tuple[NDArray[Any], list[Place]]:
        """The vector of an example, and the centres of its cells."""
        place = mapping(example) if isinstance(example, BaseGeometry) else {"lon": example[0], "lat": example[1]}
        body = {"like": [place], "time": time}
        (answer,) = self._server.post(f"layers/{layer}/vectors", body)["vectors"]
        if answer["vector"] is None:
            raise RequestError(printable(answer.get("problem", "no vector there"), 300))
        own = [(float(lon), float(lat)) for lon, lat in answer["centres"]]
        return np.asarray(answer["vector"], np.float64), own

    def find(self, layer: str, vector: NDArray[Any], question: Question, k: int) -> tuple[list[dict[str, Any]], float]:
        """Hits, and the metres that they are apart."""
        within = question.within
        body = {
            "like": [{"vector": vector.tolist()}],
            "k": k,
            "time": question.time,
            "within": mapping(within) if isinstance(within, BaseGeometry) else within,
            "apart_m": question.apart_m,
        }
        answer = self._server.post(f"layers/{layer}/find", body)
        return list(answer["hits"]), float(answer["apart_m"])


def _only(name: str | None, layers: tuple[str, ...]) -> str:
    """The layer with a name, or the only one."""
    if name is None and len(layers) == 1:
        return layers[0]
    if name is None:
        raise RequestError(f"which layer? It has {listed(layers)}; name one with --layer")
    if name not in layers:
        raise RequestError(f"no layer {printable(name, 64)}; it has {listed(layers)}")
    return name
