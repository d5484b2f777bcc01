"""One search over cubes at several centres: each is asked where its data are; only the query and its hits travel.

The vector of an example is read once, from the first centre that holds the place and has a vector there. Centres whose
layer was made with other weights are not asked: their numbers mean something else.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Point
from shapely.geometry.base import BaseGeometry

from embedcube.cube.similar import Query
from embedcube.errors import EmbedcubeError, RequestError, WorkError
from embedcube.printable import printable
from embedcube.uses.centres import Centre
from embedcube.uses.holders import Example, Holder, LayerThere, Local, Place, Question, Served
from embedcube.uses.remote import within

T = TypeVar("T")

TIMEOUT_S = 60.0
"""seconds that a server may take for one answer"""

DEADLINE_S = 600.0
"""seconds after which a centre is given up, whatever it does: a plain store is read by this machine, part by part"""

_AROUND = 8
"""hits closer to an example than the distance between hits, at most: they are left out when all have answered"""

_MOST_HITS = 1000
"""hits that a centre is asked for at most, unless more are wanted: a server gives so many"""

_SAME_M = 0.1
"""metres between two roundings of one place"""

_MOST_APART_M = 1e7
"""metres between hits at most, as a server takes them: one centre that names more would leave out all hits of others"""

_EARTH_M = 6_371_008.8

_FAULTS = (EmbedcubeError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, OSError)
"""what an answer leads to that is none, or that does not come"""


@dataclass(frozen=True, kw_only=True)
class CentreHit:
    """A hit, and where it is from."""

    rank: int
    centre: str
    cosine: float
    layer: str
    zone: str
    t: int
    y: int
    x: int
    window: str
    lon: float
    lat: float
    status: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How one centre answered."""

    centre: str
    cube: str
    """its address, without credentials"""
    state: Literal["answered", "down", "refused"]
    """refused: its vectors are of other weights, or the question is wrong for it"""
    reason: str = ""
    hits: int = 0
    """of those that remain"""
    version: str = ""
    weights_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Federated:
    """Hits of all centres, best first, and how each centre answered."""

    hits: list[CentreHit]
    centres: list[Asked]

    @property
    def missing(self) -> list[Asked]:
        """Centres whose hits are not among these."""
        return [one for one in self.centres if one.state != "answered"]


@dataclass
class _State:
    """What is known of a centre while it is asked."""

    centre: Centre
    holder: Holder | None = None
    layer: LayerThere | None = None
    problem: EmbedcubeError | None = None
    hits: list[dict[str, Any]] | None = None
    apart_m: float = 0.0
    left_s: float = field(default_factory=lambda: DEADLINE_S)
    """seconds that it may still take: waiting for others does not count"""

    def bounded(self, work: Callable[[], T]) -> T:
        """The result of `work`; a WorkError at the deadline."""
        start = time.monotonic()
        try:
            return within(self.left_s, work, str(self.centre.address))
        finally:
            self.left_s -= time.monotonic() - start

    def attempt(self, work: Callable[[], T]) -> T | None:
        """The result of `work`; None where the centre is down, refuses, or has done so before."""
        if self.problem is not None:
            return None
        try:
            return self.bounded(work)
        except _FAULTS as error:
            self.problem = _problem(error)
        return None


def _problem(error: Exception) -> EmbedcubeError:
    """What is wrong with a centre whose answer led to an error."""
    if isinstance(error, EmbedcubeError):
        return error
    if isinstance(error, OSError):
        return WorkError(printable(error, 200))
    return WorkError(f"its answer is not understood ({type(error).__name__}: {printable(error, 100)})")


def find_at_all(centres: Sequence[Centre], question: Question, timeout_s: float = TIMEOUT_S) -> Federated:
    """The best hits of all centres; what a centre that is down would have added is missing, and it is named.

    Raises:
        RequestError: no centre has a vector for an example.
        WorkError: so it is, and a centre that may have one is down.
    """
    states = [_State(centre) for centre in centres]

    def greet(state: _State) -> None:
        centre = state.centre
        state.holder = state.attempt(lambda: Served(centre, timeout_s) if centre.address.served else Local(centre))
        holder = state.holder
        if holder is not None:
            state.layer = state.attempt(lambda: holder.layer(question.layer))

    with ThreadPoolExecutor(max(1, len(states))) as pool:
        list(pool.map(greet, states))
        query, weights, own = _query(states, question)
        _refuse_others(states, weights)
        extra = _AROUND * len(question.like)
        asked = max(question.k, min(_MOST_HITS, question.k + extra))
        while True:
            list(pool.map(partial(_search, query=query, question=question, k=asked), states))
            hits = _merged(states, question, own)
            more = any(state.hits is not None and len(state.hits) >= asked for state in states)
            # hits in the polygon of an example are none: a centre may have had no others
            if len(hits) >= question.k or asked >= _MOST_HITS or not more:
                break
            asked = min(_MOST_HITS, 4 * asked)
    return Federated(hits=hits, centres=[_asked(state, hits) for state in states])


def _search(state: _State, query: NDArray[Any], question: Question, k: int) -> None:
    holder, layer = state.holder, state.layer
    if holder is None or layer is None:
        return
    found = state.attempt(lambda: _checked(*holder.find(layer.name, query, question, k), k))
    # of a centre that has failed now, earlier hits do not count either: it is told as one that is missing
    state.hits = None
    if found is not None:
        state.hits, state.apart_m = found


def _checked(hits: list[dict[str, Any]], apart_m: float, k: int) -> tuple[list[dict[str, Any]], float]:
    """The hits of a centre as they may be merged and printed.

    Raises:
        KeyError, TypeError, ValueError: one of them is no hit, or there are more than the `k` that were asked for.
    """
    if len(hits) > k:
        raise ValueError(f"{len(hits):,} hits, {k:,} were asked for")
    if not 0 <= apart_m <= _MOST_APART_M:
        raise ValueError(f"hits {apart_m} m apart")
    checked = []
    for hit in hits:
        numbers = {name: float(hit[name]) for name in ("cosine", "lon", "lat")}
        if not all(map(math.isfinite, numbers.values())) or abs(numbers["cosine"]) > 1.001:
            raise ValueError(f"a hit with the cosine {numbers['cosine']} at {numbers['lon']}, {numbers['lat']}")
        words = {name: printable(hit[name], 80) for name in ("zone", "window", "status")}
        checked.append(numbers | words | {name: int(hit[name]) for name in ("t", "y", "x")})
    return checked, apart_m


def _query(states: Sequence[_State], question: Question) -> tuple[NDArray[Any], str, list[Place]]:
    """The vector that the examples stand for, the digest of its weights, and the centres of the cells of `like`."""
    weights: str | None = None
    vectors: list[NDArray[Any]] = []
    own: list[Place] = []
    for example in (*question.like, *question.unlike):
        vector, weights, centres = _read(states, example, question.time, weights)
        vectors.append(vector)
        if len(vectors) <= len(question.like):
            own += centres
    count = len(question.like)
    assert weights is not None
    return Query.by_examples(vectors[:count], vectors[count:]).vector, weights, own


def _read(
    states: Sequence[_State], example: Example, window: str | None, weights: str | None
) -> tuple[NDArray[Any], str, list[Place]]:
    """The vector of an example from the first centre that has one, of the given weights if there are any."""
    reasons = []
    for state in states:
        holder, layer = state.holder, state.layer
        if holder is None or layer is None or state.problem is not None:
            reasons.append(f"{state.centre.name}: {state.problem}")
            continue
        if weights is not None and layer.weights != weights:
            reasons.append(f"{state.centre.name}: weights {layer.weights[:12]}, not {weights[:12]}")
            continue
        try:
            vector, centres = state.bounded(partial(holder.vector, layer.name, example, window))
            return _whole(vector, layer.features), layer.weights, centres
        except RequestError as error:
            reasons.append(f"{state.centre.name}: {error}")
        except _FAULTS as error:
            state.problem = _problem(error)
            reasons.append(f"{state.centre.name}: {state.problem}")
    where = f"the {example.geom_type} {example.bounds}" if isinstance(example, BaseGeometry) else str(example)
    down = any(isinstance(state.problem, WorkError) for state in states)
    raise (WorkError if down else RequestError)(f"no centre has a vector at {where}: {'; '.join(reasons)}")


def _whole(vector: NDArray[Any], features: int) -> NDArray[Any]:
    """The vector of a centre as it may be sent to the others; a ValueError says that it is none."""
    if vector.shape != (features,) or not np.isfinite(vector).all() or not vector.any():
        raise ValueError(f"a vector of shape {vector.shape}, expected {features} finite numbers that are not all 0")
    return vector


def _refuse_others(states: Sequence[_State], weights: str) -> None:
    for state in states:
        if state.layer is not None and state.problem is None and (state.layer.weights != weights or not weights):
            own, other = (digest[:12] or "without a digest" for digest in (state.layer.weights, weights))
            state.problem = RequestError(f"weights {own}, the vector is of {other}: two models cannot be compared")


def _merged(states: Sequence[_State], question: Question, own: Sequence[Place]) -> list[CentreHit]:
    """The best hits of all centres, far enough from each other and from the examples."""
    apart_m = max((state.apart_m for state in states), default=0.0)
    found = [(state, hit) for state in states for hit in state.hits or []]
    found.sort(key=lambda one: (-float(one[1]["cosine"]), one[0].centre.name, one[1]["zone"], one[1]["t"], one[1]["y"]))
    taken: list[Place] = [one for one in question.like if not isinstance(one, BaseGeometry)]
    areas = [one for one in question.like if isinstance(one, BaseGeometry)]
    hits: list[CentreHit] = []
    for state, hit in found:
        place = (float(hit["lon"]), float(hit["lat"]))
        # rounding of the coordinates: hits of one centre are apart already
        if any(metres(place, other) < apart_m * 0.999 for other in taken):
            continue
        if any(metres(place, other) < _SAME_M for other in own):
            continue
        # longitudes of a polygon over the antimeridian go on beyond 180
        if any(area.covers(Point(place[0] + turn, place[1])) for area in areas for turn in (-360, 0, 360)):
            continue
        taken.append(place)
        assert state.layer is not None
        hits.append(
            CentreHit(
                rank=len(hits) + 1, centre=state.centre.name, cosine=float(hit["cosine"]), layer=state.layer.name,
                zone=str(hit["zone"]), t=int(hit["t"]), y=int(hit["y"]), x=int(hit["x"]), window=str(hit["window"]),
                lon=place[0], lat=place[1], status=str(hit["status"]),
            )
        )  # fmt: skip
        if len(hits) == question.k:
            break
    return hits


def metres(one: Place, other: Place) -> float:
    """Distance of two places on a sphere."""
    (lon, lat), (lon2, lat2) = (tuple(map(math.radians, place)) for place in (one, other))
    half = math.sin((lat2 - lat) / 2) ** 2 + math.cos(lat) * math.cos(lat2) * math.sin((lon2 - lon) / 2) ** 2
    return 2 * _EARTH_M * math.asin(min(1.0, math.sqrt(half)))


def _asked(state: _State, hits: Sequence[CentreHit]) -> Asked:
    answered = state.hits is not None and state.problem is None
    refused = isinstance(state.problem, RequestError)
    return Asked(
        centre=state.centre.name,
        cube=str(state.centre.address),
        state="answered" if answered else "refused" if refused else "down",
        reason="" if state.problem is None else printable(state.problem, 300),
        hits=sum(hit.centre == state.centre.name for hit in hits),
        version="" if state.layer is None else state.layer.version,
        weights_sha256="" if state.layer is None else state.layer.weights,
    )
