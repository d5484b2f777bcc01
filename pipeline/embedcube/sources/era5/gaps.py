"""The steps that a window lacks, by the inventory alone: what `plan` and `explain` say of an archive of weather."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.sources.era5.timeline import MONTH_S, Times, read_timeline, stamps_of
from embedcube.windows import Window

_WHOLE = 1e-6


@dataclass(frozen=True, kw_only=True)
class _Band:
    """All steps of a band in an archive, each once, in order of time."""

    begins: Times
    ends: Times
    instants: bool
    running: bool
    step_s: int
    """seconds from one step to the next; 0 where it is unknown"""

    @cached_property
    def usual_s(self) -> float:
        """The usual length of a step (s); 0 where it is unknown."""
        lengths_s = (self.ends - self.begins).astype(np.int64)
        return float(np.median(lengths_s)) if lengths_s.any() else float(self.step_s)

    def counts(self, frame: Window) -> tuple[int, int] | None:
        """How many steps of a frame there are, and how many it has; None if all are there, or it is not known."""
        start, end = stamps_of([frame.start, frame.end])
        frame_s = float((end - start).astype(np.int64))
        if self.instants or self.running:
            marks, side = (self.begins, "left") if self.instants else (self.ends, "right")
            first, last = (int(np.searchsorted(marks, moment, side=side)) for moment in (start, end))  # type: ignore[call-overload]
            expected = round(frame_s / self.step_s) if self.step_s else 0
            return (last - first, expected) if last - first < expected else None
        near = slice(*(int(np.searchsorted(*at)) for at in ((self.ends, start, "right"), (self.begins, end, "left"))))
        begins, ends = self.begins[near], self.ends[near]
        filled = np.clip((np.minimum(ends, end) - np.maximum(begins, start)).astype(np.float64), 0, None)
        count, share = int((filled > 0).sum()), float(filled.sum()) / frame_s
        if share >= 1 - _WHOLE:
            return None
        usual_s = self.usual_s
        if usual_s >= MONTH_S:
            months = start.astype("datetime64[M]"), (end - np.timedelta64(1, "s")).astype("datetime64[M]")
            return count, int((months[1] - months[0]).astype(np.int64)) + 1
        return (count, max(count, round(frame_s / usual_s))) if usual_s else None


def missing_steps(campaign: Campaign, name: str, scenes: Sequence[Scene]) -> dict[str, list[str]]:
    """For each window of a layer that lacks steps of a series, by its number as text: what is missing, in words."""
    bands = dict(_bands(scenes))
    found: dict[str, list[str]] = {}
    if not bands:
        return found
    for t, frames in enumerate(campaign.frames(name)):
        for number, frame in enumerate(frames, start=1):
            where = f"frame {number} of {len(frames)}: " if len(frames) > 1 else ""
            for (_, band), steps in bands.items():
                if counts := steps.counts(frame):
                    found.setdefault(str(t), []).append(f"{where}{band} has {counts[0]} of {counts[1]} steps")
    return found


def _bands(scenes: Sequence[Scene]) -> Iterator[tuple[tuple[str, str], _Band]]:
    """The steps of each archive and band, from all scenes that can be used."""
    timelines: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for scene in scenes:
        for asset in scene.assets if not (scene.verdict or scene.superseded_by) else ():
            if asset.timeline:
                timelines.setdefault((scene.archive, asset.band), []).append((asset.timeline, asset.step_s))
    for key, texts in timelines.items():
        read = [read_timeline(text, step_s) for text, step_s in dict.fromkeys(texts)]
        pairs = np.concatenate([np.stack([one.begins, one.ends], axis=1) for one in read])
        # in the order of their ends: running sums of a day begin together
        pairs = np.unique(pairs[:, ::-1].astype(np.int64), axis=0)[:, ::-1].astype("datetime64[s]")
        steps_s = [step_s for _, step_s in texts if step_s]
        yield (
            key,
            _Band(
                begins=pairs[:, 0],
                ends=pairs[:, 1],
                instants=all(one.instants for one in read),
                running=any(one.running for one in read),
                step_s=min(steps_s, default=0),
            ),
        )
