"""Several layers side by side, of one cube or of several: the vectors that each has of one place."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedcube.cube.encoding import OUTSIDE, VALID, VALID_INCOMPLETE
from embedcube.cube.layer import Layer
from embedcube.cube.places import places_of
from embedcube.cube.sample import sample, sample_windows, status_attributes
from embedcube.cube.store import Time
from embedcube.errors import RequestError

if TYPE_CHECKING:
    import xarray


def side_by_side(*layers: Layer) -> "Together":
    """Layers to be asked together, of one cube or of several: `side_by_side(cube["s2_mosaiks"], weather["era5_eof"])`.

    Raises:
        RequestError: there are fewer than two, or one is named twice.
    """
    return Together(layers)


class Together:
    """Layers that are asked together; windows are those of the first."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """`layers` are at least two; those of one name from two cubes get the names of their versions, too."""
        if len(layers) < 2:
            raise RequestError("side by side are at least two layers: side_by_side(cube['a'], cube['b'])")
        names = [layer.name for layer in layers]
        several = [f"{one.name} of {one.cube.version}" if names.count(one.name) > 1 else one.name for one in layers]
        if len(set(several)) != len(several):
            twice = next(name for name in several if several.count(name) > 1)
            raise RequestError(f"{twice} is there twice: its vectors side by side say nothing more")
        self.layers = dict(zip(several, layers, strict=True))

    def __repr__(self) -> str:
        return "\n".join(["Together", *(f"  {layer!r}" for layer in self.layers.values())])

    def sample(
        self,
        points: Any = None,
        time: Time = None,
        *,
        x: ArrayLike | None = None,
        y: ArrayLike | None = None,
        crs: Any = None,
    ) -> "xarray.Dataset":
        """Vectors of points over time in all layers, as `Layer.sample` has those of one.

        `vector` (point, time, feature) has the features of the first layer, then those of the next; the coordinates
        `layer` and `number` (feature) say whose each is. `status` and `n_obs` are (point, time, layer). Times are the
        windows of the first layer that `time` selects; each other layer gives its window that holds the middle of it,
        and has status `outside` where it has none. `complete` (point, time) says whether all layers have a vector.
        """
        places = places_of(points, x, y, crs)
        (first_name, first), *others = self.layers.items()
        found = {first_name: sample(first.cube, first.name, places, time)}
        middles = _middles(first, found[first_name]["t"].values.tolist())
        for name, layer in others:
            windows = _holding(layer, middles)
            # one window at least, for the shape of what is missing
            known = sorted({t for t in windows if t >= 0}) or [0]
            found[name] = _at(sample_windows(layer.cube, layer.name, places, known), windows)
        return _joined(found)


def _joined(found: "dict[str, xarray.Dataset]") -> "xarray.Dataset":
    """What all layers have, by layer, as one Dataset."""
    import xarray

    first = next(iter(found.values()))
    vectors = np.concatenate([one["vector"].values for one in found.values()], axis=-1)
    status, n_obs = (np.stack([one[name].values for one in found.values()], axis=-1) for name in ("status", "n_obs"))
    complete = ((status == VALID) | (status == VALID_INCOMPLETE)).all(axis=-1)
    counts = [one.sizes["feature"] for one in found.values()]
    about: dict[str, Any] = {"long_name": "vectors of several layers, one after the other", "units": "1"}
    for name, one in found.items():
        about[f"weights_sha256 of {name}"] = one["vector"].attrs.get("embedcube:weights_sha256", "")
    by_layer = ("point", "time", "layer_name")
    return xarray.Dataset(
        {
            "vector": (("point", "time", "feature"), vectors, about),
            "status": (by_layer, status, status_attributes(outside=True)),
            "n_obs": (by_layer, n_obs, first["n_obs"].attrs),
            "complete": (("point", "time"), complete, {"long_name": "all layers have a vector"}),
        },
        coords={
            "layer_name": list(found),
            "layer": ("feature", np.repeat(list(found), counts)),
            "number": ("feature", np.concatenate([np.arange(count) for count in counts])),
            **{name: first[name].variable for name in ("point", "time", "time_end", "lon", "lat")},
        },
    )


def _middles(layer: Layer, windows: list[int]) -> list[datetime]:
    own = layer.cube.windows(layer.zones[0])
    return [own[t].start + (own[t].end - own[t].start) / 2 for t in windows]


def _holding(layer: Layer, moments: list[datetime]) -> list[int]:
    """For each moment the first window of a layer that holds it; -1 where there is none."""
    own = layer.cube.windows(layer.zones[0])
    return [next((t for t, one in enumerate(own) if one.start <= moment < one.end), -1) for moment in moments]


def _at(sampled: "xarray.Dataset", windows: list[int]) -> "xarray.Dataset":
    """What was sampled, in some windows, those that are -1 without anything."""
    known = sampled["t"].values.tolist()
    found = sampled.isel(time=[known.index(t) if t >= 0 else 0 for t in windows])
    missing: NDArray[np.bool_] = np.array([t < 0 for t in windows])
    values = {name: found[name].values.copy() for name in ("vector", "status", "n_obs")}
    for name, nothing in (("vector", np.nan), ("status", OUTSIDE), ("n_obs", 0)):
        values[name][:, missing] = nothing
    return found.assign({name: (found[name].dims, own, found[name].attrs) for name, own in values.items()})
