"""What a decoder on vectors saves, taken apart for one cube: parameters, bytes and CPU seconds, beside raw pixels.

"So many times fewer parameters, bytes, seconds" compares a decoder with an encoder and a decoder, raw numbers with
vectors of fewer bits, and a decoder that runs today with an encoder that ran before. Here each part has its number.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.provenance import arrays_in
from embedcube.cube.reader import Cube
from embedcube.uses.decode.baselines import RAW, Again, filled
from embedcube.uses.decode.examples import Examples
from embedcube.uses.decode.fit import Settings, fit_head
from embedcube.uses.decode.heads import Head

_RECORDS = 256
"""records of shards that the compressed size is counted from"""

_LEAST_S = 0.05
"""CPU seconds for which a head is run to know its speed"""

MEGA = 1_000_000


def figures(
    cube: Cube, layers: Sequence[str], examples: Examples, head: Head, settings: Settings, again: Again | None
) -> dict[str, Any]:
    """Parameters, bytes for a cell, and CPU seconds for a million cells; None where a figure is not known."""
    arrays = [cube.array(cube.zones_of(layer)[0], "embedding") for layer in layers]
    stored = sum(a.shape[-1] * a.dtype.itemsize + (4 if a.dtype == np.int8 else 0) for a in arrays)
    raw = again is not None and RAW in again.features
    raw_head, raw_seen = None, None
    if raw and again is not None:
        features = filled(again.features[RAW])
        there = np.asarray(np.isfinite(features).all(axis=1))
        raw_seen = examples.take(there).seen_through(features[there])
        raw_head = fit_head(raw_seen, settings.alone(examples.task))
    encoder = again.encoder_parameters if again and raw else None
    raw_bytes = again.raw_bytes if again and raw else None
    return {
        "parameters": {
            "encoder": encoder,
            "head on vectors": head.parameters,
            "head on raw pixels": raw_head.parameters if raw_head else None,
            "encoder and head over head": round((encoder + head.parameters) / head.parameters, 1) if encoder else None,
        },
        "bytes for a cell": {
            "raw pixels, 2 bytes a number": raw_bytes,
            "vector as stored": stored,
            "vector compressed, as in the cube": compressed_bytes(cube, layers),
            "raw over vector": round(raw_bytes / stored, 2) if raw_bytes else None,
            "raw over vector of float32": round(raw_bytes / (4 * head.features), 2) if raw_bytes else None,
        },
        "CPU seconds for a million cells": {
            "read and composite raw pixels": _rounded(again.read_cpu_s * MEGA) if again and raw else None,
            "encoder": _rounded(again.encoder_cpu_s * MEGA) if again and raw else None,
            "head on vectors": _rounded(cpu_s_of(head, examples) * MEGA),
            "head on raw pixels": _rounded(cpu_s_of(raw_head, raw_seen) * MEGA) if raw_head and raw_seen else None,
        },
        "missing": again.missing if again else "not asked for",
    }


def _rounded(number: float) -> float | None:
    return float(f"{number:.3g}") if np.isfinite(number) else None


def cpu_s_of(head: Head, examples: Examples) -> float:
    """CPU seconds of a head for one row."""
    rows, start_s, spent_s = 0, time.process_time(), 0.0
    while spent_s < _LEAST_S:
        examples.said(head)
        rows += len(examples)
        spent_s = time.process_time() - start_s
    return spent_s / rows


def compressed_bytes(cube: Cube, layers: Sequence[str]) -> float | None:
    """Bytes of the embedding and its scale in the cube for a cell with a vector, of the first layers' shards."""
    total = 0.0
    for layer in layers:
        size = cells = 0
        places = [row for (zone, *_), row in cube.provenance.places.items() if zone.split("/")[0] == layer]
        for row in places[:: max(1, len(places) // _RECORDS)]:
            record = cube.provenance.record(row)
            size += sum(one["size"] for one in arrays_in(record) if one["array"] in ("embedding", "scale"))
            cells += sum(record["counts"].get(STATUS_MEANINGS[status], 0) for status in (VALID, VALID_INCOMPLETE))
        if not cells:
            return None
        total += size / cells
    return round(total, 1)
