"""Statistics of a cube whose bytes are right: seams, gaps, dead features, duplicates, drift between windows.

They need the cube alone. Large cubes are sampled (`blocks.py`); the records of all shards are read. What is above its
bound is a finding; the figures are kept in `report/seams.json`, with a map for each zone.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.campaign.run_folder import write_atomically
from embedcube.consolidate.blocks import Sampling
from embedcube.consolidate.contents import (
    DRIFT_BOUND,
    DRIFT_RATIO,
    DUPLICATE_BOUND,
    LEAST_DUPLICATES,
    SEASON_D,
    Drift,
    Duplicates,
    Features,
)
from embedcube.consolidate.findings import Finding
from embedcube.consolidate.gaps import Records
from embedcube.consolidate.scenes_of_cells import Origins
from embedcube.consolidate.seam_map import draw_seams
from embedcube.consolidate.seams import CERTAIN, Steps
from embedcube.consolidate.zone_seams import add_zone_borders
from embedcube.cube.listed import is_list
from embedcube.cube.reader import Cube

FIGURES = "seams.json"
"""file of the figures, in `report/`"""

_NAMED = 5
"""features that a finding names"""

_FIELDS = ("era5", "fields")
"""sources whose windows may differ as a whole"""

_LEAST_VECTORS = 2048
"""vectors without which no feature is called dead: a small place may have no road and no water"""

_LEAST_OF_ONE_LAND = 10_000
"""the same where all features are: so much land is never one and the same"""


@dataclass(frozen=True, kw_only=True)
class Soundness:
    """The statistics of one layer."""

    layer: str
    sampled: str
    """what was looked at, in words"""
    steps: Steps
    features: Features
    duplicates: Duplicates
    drift: Drift
    records: Records
    middles: dict[int, float]
    """middle of each window, in days"""
    of_fields: bool
    """whether all archives of the layer are of weather or other fields"""

    def findings(self) -> Iterator[Finding]:
        """What is above its bound: remarks, but for what contradicts the records."""
        yield from self.records.counts()
        yield from self.records.repeated()
        yield from (replace(finding, remark=True) for finding in self._unusual())

    def _unusual(self) -> Iterator[Finding]:
        """What good cubes seldom have."""
        yield from _seams(self.layer, self.steps)
        yield from self.records.gaps()
        silent = len(self.features.dead) + len(self.features.constant)
        least = _LEAST_VECTORS if silent < self.steps.features else _LEAST_OF_ONE_LAND
        if self.features.seen >= least:
            for words, which in (("0", self.features.dead), ("one and the same number", self.features.constant)):
                if which:
                    named = ", ".join(map(str, which[:_NAMED])) + (", ..." if len(which) > _NAMED else "")
                    yield Finding(
                        check="features",
                        place=self.layer,
                        found=f"{len(which)} features ({named}) are {words} in all {self.features.seen} vectors seen",
                        expected="features that differ from place to place",
                    )
        equal, different = self.duplicates.counts
        if different and equal >= LEAST_DUPLICATES and equal > DUPLICATE_BOUND * different:
            yield Finding(
                check="duplicates",
                place=self.layer,
                found=f"{equal} of {different} different vectors are at a second place too, equally far from the first",
                expected=f"at most {DUPLICATE_BOUND:.1%} of them",
            )
        yield from self._drifts()

    def _drifts(self) -> Iterator[Finding]:
        """Windows that differ as a whole from the one before, in the same season; weather may do so."""
        if self.of_fields:
            return
        distances = self.drift.distances()
        usual = float(np.median([distance for *_, distance, _ in distances])) if distances else 0.0
        bound = max(DRIFT_BOUND, DRIFT_RATIO * usual) if len(distances) > 3 else DRIFT_BOUND
        for one, other, distance, error in distances:
            apart = abs(self.middles[one] - self.middles[other]) % 365.25
            if min(apart, 365.25 - apart) <= SEASON_D and distance - 2 * error > bound:
                yield Finding(
                    check="drift",
                    place=f"{self.layer} window {other}",
                    found=f"all vectors differ from those of window {one} by {distance:.2f} +- {error:.2f} of the "
                    "spread between cells",
                    expected=f"at most {bound:.2f}: look for an offset or a unit that one of them lacks",
                )

    def figures(self) -> dict[str, Any]:
        """All figures, for JSON: null where there is nothing to measure."""
        mean, spread, count = self.steps.inside
        equal, different = self.duplicates.counts
        seams = {}
        for seam in self.steps.seams:
            effect, error = seam.effect(spread)
            measured = bool(np.isfinite(effect))
            seams[seam.kind] = {
                "effect": round(effect, 4) if measured else None,
                "standard_error": round(error, 4) if measured else None,
                "lines": seam.counts[0],
                "steps": seam.counts[1],
            }
        return {
            "sampled": self.sampled,
            "inside": {"mean": round(mean, 5), "standard_deviation": round(spread, 5), "steps": count},
            "seams": seams,
            "windows": {str(t): counts for t, counts in sorted(self.records.windows.items())},
            "features": {"vectors": self.features.seen, "dead": self.features.dead, "constant": self.features.constant},
            "duplicates": {"at_several_places": equal, "different": different},
            "drift": [
                {"from": one, "to": other, "distance": round(distance, 4), "standard_error": round(error, 4)}
                for one, other, distance, error in self.drift.distances()
            ],
        }


def keep_figures(cube: Cube, examined: Mapping[str, Soundness], report: Path) -> None:
    """Write the figures of all layers, and a map for each zone, into the folder `report`."""
    figures = {layer: one.figures() for layer, one in examined.items()}
    write_atomically(report / FIGURES, json.dumps(figures, indent=1).encode())
    for layer, one in examined.items():
        if not is_list(cube.zones_of(layer)[0]):
            draw_seams(cube, layer, one.steps, report)


def in_words(report: Path) -> list[str]:
    """One line for each layer: the seams that were measured; none where nothing was."""
    if not (report / FIGURES).exists():
        return []
    lines = []
    for layer, figures in json.loads((report / FIGURES).read_text()).items():
        seams = {kind: seam for kind, seam in figures["seams"].items() if seam["effect"] is not None}
        named = [f"{kind}s {seam['effect']:+.2f} +- {seam['standard_error']:.2f}" for kind, seam in seams.items()]
        if named:
            lines.append(f"{layer}: steps across borders of {', '.join(named)} of the spread inside (0: none is seen)")
    return lines


def examine(cube: Cube, layer: str) -> Soundness:
    """The statistics of a layer; memory holds one square, and sums."""
    sampling = Sampling(cube=cube, layer=layer)
    spread = sampling.spread()
    steps = Steps(sampling, Origins(cube), spread)
    features, duplicates, drift = Features(sampling), Duplicates(sampling), Drift(sampling.features)
    for spot in sampling.spots():
        vectors = sampling.vectors(spot)
        if not np.isfinite(vectors[..., 0]).any():
            continue
        if not is_list(spot.zone):  # neighbours in a list are no neighbours on the Earth
            steps.add(spot, vectors)
        features.add(spot, vectors)
        duplicates.add(spot)
        drift.add(spot, vectors)
    add_zone_borders(sampling, steps, spread)
    return Soundness(
        layer=layer,
        sampled=sampling.words,
        steps=steps,
        features=features,
        duplicates=duplicates,
        drift=drift,
        records=Records(cube, layer),
        middles=_middles(cube, layer),
        of_fields=all(
            cube.what["archives"][name]["source"] in _FIELDS for name in cube.what["layers"][layer]["archives"]
        ),
    )


def _of_fields(cube: Cube, layer: str) -> bool:
    archives = cube.what["layers"][layer]["archives"]
    return all(cube.what["archives"][name]["source"] in _FIELDS for name in archives)


def _middles(cube: Cube, layer: str) -> dict[int, float]:
    """Middle of each window of a layer, in days since 1970."""
    bounds = np.asarray(cube.group(cube.zones_of(layer)[0])["time_bnds"][...], dtype=np.float64)
    return dict(enumerate((bounds.mean(axis=1) / 86400).tolist()))


def _seams(layer: str, steps: Steps) -> Iterator[Finding]:
    spread = steps.inside[1]
    chips, _ = steps.lengths["chip"].effect(spread)
    for seam in steps.seams:
        effect, error = seam.effect(spread)
        if seam.kind == "shard":
            effect -= chips
        if seam.enough and effect > max(seam.bound, CERTAIN * error):
            more = "more than at borders of chips" if seam.kind == "shard" else "more than inside"
            yield Finding(
                check="seam",
                place=f"{layer}, borders of {seam.kind}s",
                found=f"vectors step by {effect:.2f} +- {error:.2f} {more} (effect size, {seam.counts[0]} lines)",
                expected=f"at most {seam.bound}",
            )
