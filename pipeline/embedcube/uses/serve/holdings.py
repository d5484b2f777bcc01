"""The cubes that are served: each opened once, by the path that its link leads to at the start."""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from embedcube.cube.layer import Layer
from embedcube.cube.listed import NO_MAP
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.printable import listed
from embedcube.uses.decode.file import Decoder, check_fits, read_decoder
from embedcube.uses.serve.kept import Shelf
from embedcube.uses.serve.limits import Limits
from embedcube.uses.serve.places import Places
from embedcube.uses.serve.reading import Reader

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class NotHere(Exception):
    """A cube, layer, zone, window, place or file that is not served: status 404, with this message."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """One cube that is served."""

    name: str
    cube: Cube
    """opened by its resolved path: this version is served until the end, wherever the link `cube.zarr` leads then"""
    reader: Reader
    decoders: Mapping[str, Decoder] = field(default_factory=dict)
    """by name, those that were fitted on vectors of this cube's models"""

    @property
    def etag(self) -> str:
        """The version, and a digest of its metadata, of its decoders, and of what lies beside it now.

        A copied cube may have any name, and a preview may be drawn while the cube is served.
        """
        digest, store = hashlib.sha256(self._metadata), self.cube.path
        for name in (f"{store.stem}.preview.zarr/zarr.json", f"{store.stem}-stac/collection.json"):
            with suppress(OSError):
                status = (store.parent / name).stat()
                digest.update(f"{name} {status.st_size} {status.st_mtime_ns} ".encode())
        return f'"{self.cube.version}-{digest.hexdigest()[:12]}"'

    @cached_property
    def _metadata(self) -> bytes:
        digest = hashlib.sha256()
        for name in ("zarr.json", "provenance/zarr.json"):
            path = self.cube.path / name
            digest.update(path.read_bytes() if path.exists() else b"")
        for name, decoder in self.decoders.items():
            digest.update(f"{name} {decoder.digest} ".encode())
        return digest.digest()

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are maps; lists of samples are served as files alone."""
        return self.cube.maps

    @cached_property
    def _opened(self) -> dict[str, Layer]:
        """Layers, each with the vector index that is beside the cube when it is first searched."""
        return {name: self.cube[name] for name in self.layers}

    @cached_property
    def _places(self) -> dict[str, Places]:
        return {layer: Places(self.cube, layer) for layer in self.layers}

    def layer(self, name: str) -> Layer:
        """A layer; NotHere where the cube has none of this name."""
        if name not in self.layers:
            raise NotHere(f"cube {self.name} has no such layer; it has {', '.join(self.layers)}")
        return self._opened[name]

    def weights(self, layer: str) -> str:
        """SHA-256 of the weights of a layer: vectors of others cannot be compared with its own."""
        zone = self.layer(layer).zones[0]
        return str(self.cube.group(zone).attrs.get("embedcube:weights_sha256", ""))

    def decoders_of(self, layer: str) -> dict[str, Decoder]:
        """Decoders whose cells are those of a layer, by name."""
        return {name: one for name, one in self.decoders.items() if one.layers[0] == layer}

    def places(self, layer: str) -> Places:
        """How the places of a layer lead to cells."""
        self.layer(layer)
        return self._places[layer]

    def zone(self, layer: str, name: str | None) -> str:
        """The path of a zone by its name ("utm32"), or of the only one; NotHere where there is no such zone."""
        zones = self.layer(layer).zones
        if name is None and len(zones) == 1:
            return zones[0]
        path = f"{layer}/{name}"
        if path not in zones:
            listed = ", ".join(zone.partition("/")[2] for zone in zones)
            raise NotHere(f"layer {layer} has the zones {listed}; name one")
        return path

    def zone_with_window(self, layer: str, name: str, t: int) -> str:
        """The path of a zone that has a window of this number, counted from 0; NotHere where there is none."""
        path = self.zone(layer, name)
        windows = self.cube.array(path, "status").shape[0]
        if t >= windows:
            raise NotHere(f"{path} has {windows} windows, counted from 0; there is no window {t}")
        return path

    def windows(self, zone: str, time: str | None) -> list[int]:
        """Windows of a zone that a time selects; NotHere where there is none."""
        try:
            return self.cube.windows_of(zone, time)
        except RequestError as error:
            raise NotHere(str(error)) from None

    def window(self, zone: str, time: str | None) -> int:
        """The only window of a zone that a time selects; NotHere where there are several, or none."""
        chosen = self.windows(zone, time)
        if len(chosen) > 1:
            example = self.cube.windows(zone)[chosen[0]].short
            raise NotHere(f"{len(chosen)} windows of {zone} match; choose one with time, for example {example}")
        return chosen[0]


def open_holdings(cubes: Sequence[str | Path], limits: Limits, decoders: Sequence[Path] = ()) -> dict[str, Holding]:
    """Open cubes by path; `NAME=PATH` gives one another name than that of its campaign.

    A decoder is served with each cube that has its layers, with the weights that it was fitted on.

    Raises:
        RequestError: a path is not a cube, a name is no name, two cubes or two decoders have one name, or a decoder
            fits no cube.
    """
    read: dict[str, tuple[Path, Decoder]] = {}
    for file in decoders:
        if file.stem in read:
            raise RequestError(f"{file}: a decoder named {file.stem} is served already; give the file another name")
        read[file.stem] = (file, read_decoder(file))
    holdings: dict[str, Holding] = {}
    shelf = Shelf(limits.held)
    for given in cubes:
        name, _, path = str(given).rpartition("=") if not Path(given).exists() else ("", "", str(given))
        cube = Cube(path)
        name = name or re.sub(r"[^A-Za-z0-9._-]", "-", cube.campaign)
        if not _NAME.fullmatch(name):
            raise RequestError(f"{path}: {name!r} is no name for a link; write NAME={path}")
        if name in holdings:
            raise RequestError(f"{path}: a cube named {name} is served already; write OTHER-NAME={path}")
        if lists := [layer for layer in cube.layers if layer not in cube.maps]:
            if not cube.maps:
                raise RequestError(f"{path}: nothing to serve: {listed(lists)} {NO_MAP}")
            log.warning("%s: %s: lists of samples are served as files, not as maps", path, listed(lists))
        # where a cube lies on this machine is not for clients: messages have its name
        cube = Cube(cube.path, called=name)
        fitting = {stem: decoder for stem, (file, decoder) in read.items() if _why_not(decoder, cube, file) is None}
        holdings[name] = Holding(name=name, cube=cube, reader=Reader(cube, shelf), decoders=fitting)
    for stem, (file, decoder) in read.items():
        if not any(stem in holding.decoders for holding in holdings.values()):
            raise RequestError("; ".join(str(_why_not(decoder, holding.cube, file)) for holding in holdings.values()))
    return holdings


def _why_not(decoder: Decoder, cube: Cube, path: Path) -> str | None:
    """Why a decoder says nothing of the maps of a cube; None where it does."""
    if lists := [layer for layer in decoder.layers if layer in cube.layers and layer not in cube.maps]:
        return f"{path.name} is for {listed(lists)}, a list of samples and no map"
    try:
        check_fits(decoder, cube, path)
    except RequestError as error:
        return str(error)
    return None
