"""What one request may ask for. A larger one is refused with 413 before anything is read."""

from dataclasses import dataclass, field


class TooMuch(Exception):
    """A request asks for more than the server gives at once: status 413, with this message."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a server computes and keeps at once, for all requests and all its cubes."""

    computing: int = 2
    """requests that are computed at once: boxes, parcels, searches; more of them wait"""
    point_mb: int = 32
    """MB of stored vectors that a question for one place decodes without waiting for its turn; larger ones wait"""
    waiting: int = 32
    """requests that may wait; more are told to come again (503)"""
    chunks_mb: int = 256
    """memory of decoded chunks that are kept for points"""
    windows_mb: int = 1024
    """memory of whole windows that are kept for maps of similarity; larger windows are read part by part"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request, and of what is held for all of them.

    Lists of a body are checked against the defaults of `examples` and `parcels` while they are read: a server may give
    less than these, and not more.
    """

    body_bytes: int = 8 << 20
    """bytes of the body of a request"""
    box_numbers: int = 32 << 20
    """stored numbers of vectors in the answer to one box: cells x windows x features"""
    scan_cells: int = 25_000_000
    """cells that one search, comparison or map of similarity looks at: cells x windows"""
    decoded_mb: int = 8192
    """MB of stored vectors that one request decodes: all of each chunk that it touches"""
    parcels: int = 10_000
    """polygons of one request"""
    parcel_numbers: int = 4 << 20
    """means and standard deviations in the answer to one request: polygons x windows x features x statistics"""
    vertices: int = 250_000
    """vertices of the polygons of one request"""
    outline_cells: int = 2_000_000
    """cells along the edges of the polygons of one request, as far as they lie in the cube"""
    examples: int = 256
    """places, polygons and vectors that one search is asked by"""
    hits: int = 1_000
    """hits of one search"""
    map_mb: int = 128
    """MB of numbers in one map: of a window, of similarity, of change"""
    held: Held = field(default_factory=Held)


def refuse_above(what: str, asked: int, most: int) -> None:
    """Refuse a request that asks for more than `most`; `what` names what is counted."""
    if asked > most:
        raise TooMuch(f"{asked:,} {what}; this server gives at most {most:,} at once: ask for less")
