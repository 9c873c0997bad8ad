"""Means over the images of an evaluation."""

from dataclasses import dataclass, field

import numpy as np

from urgt_jax.evaluation.metrics import Pooled
from urgt_jax.evaluation.resume import Entry, Scores, unpack_counts


@dataclass
class Tally:
    """What has been scored so far; maps are not kept."""

    sides: tuple[str, ...]
    pictures: list[tuple[str, dict[str, Scores]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # name -> why
    sizes: set[tuple[int, int]] = field(default_factory=set)  # of the truths, pixels

    def __post_init__(self) -> None:
        self.pooled = {side: Pooled() for side in self.sides}

    def add(self, entry: Entry) -> None:
        """Notes a picture's scores."""
        self.sizes.add(entry.size)
        self.pictures.append((entry.name, entry.scores))
        for side, text in entry.angles.items():
            self.pooled[side].add(unpack_counts(text))

    def means(self) -> dict[str, Scores]:
        """The mean over pictures of each metric, and normals pooled over all pixels."""
        return {
            side: {
                **average([scores[side] for _, scores in self.pictures]),
                "pooled": self.pooled[side].scores(),
            }
            for side in self.sides
        }


def average(scores: list[Scores]) -> Scores:
    """The mean over pictures of each metric, without pictures where it is not defined."""
    found: Scores = {}
    for kind in ("depth", "normal"):
        names = dict.fromkeys(name for s in scores for name in s[kind])
        values = {n: np.array([s[kind].get(n, np.nan) for s in scores], float) for n in names}
        found[kind] = {
            n: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan")
            for n, v in values.items()
        }
    return found
