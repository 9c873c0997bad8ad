"""Spikes: steps whose loss or gradient norm is far above that of the steps before.

A step is a spike if it is further above the median of the last `WINDOW` steps than `RATIO` times
the median distance of these steps from it. Unlike a ratio to the median, this also works for a loss
that is negative, as with `loss.confidence`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WATCHED = ("loss", "grad_norm")
WINDOW = 100  # steps before that are compared with, spikes included
FEWEST = 20  # of them, below which no step counts as a spike
RATIO = 10.0  # 6.7 standard deviations if values were normally distributed


class Spike(NamedTuple):
    """A value of a step, counted from 1, and the median of the steps before."""

    step: int
    name: str
    value: float
    median: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: spike: {self.name} {self.value:.3g}, median of the steps before "
            f"{self.median:.3g}"
        )


class SpikeDetector:
    """Compares each step with the steps before."""

    def __init__(self, recent: Sequence[dict[str, float]] = ()):
        # The watched values of the last steps that were taken, the oldest first.
        self.recent = list(recent)

    def add(self, step: int, metrics: dict[str, float]) -> list[Spike]:
        """Add the metrics of a step that was taken; returns its spikes."""
        values = {name: metrics[name] for name in WATCHED}
        spikes = []
        if len(self.recent) >= FEWEST:
            for name, value in values.items():
                before = np.array([past[name] for past in self.recent])
                median = float(np.median(before))
                spread = float(np.median(np.abs(before - median)))
                if spread > 0 and value - median > RATIO * spread:
                    spikes.append(Spike(step, name, value, median))
        self.recent = [*self.recent, values][-WINDOW:]
        return spikes


def steps_of_spikes(spikes: Sequence[Spike]) -> dict[str, list[int]]:
    """The steps of spikes as metrics.jsonl has them, such as {"loss_spikes": [712]}."""
    steps: dict[str, list[int]] = {}
    for spike in spikes:
        steps.setdefault(f"{spike.name}_spikes", []).append(spike.step)
    return steps
