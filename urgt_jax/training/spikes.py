"""Spikes: steps whose loss or gradient norm is far above that of the steps before."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WATCHED = ("loss", "grad_norm")
WINDOW = 100  # steps before that the median is taken of
FEWEST = 20  # of them, below which no step counts as a spike
RATIO = 5.0  # to the median, above which a step is a spike


class Spike(NamedTuple):
    """A value of a step, counted from 1, and the median of the steps before."""

    step: int
    name: str
    value: float
    median: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: spike: {self.name} {self.value:.3g} is "
            f"{self.value / self.median:.1f} times the median of the steps before"
        )


class SpikeDetector:
    """Compares each step with the running median of the steps before. Spikes are part of it."""

    def __init__(self, recent: Sequence[dict[str, float]] = ()):
        # The watched values of the last steps that were taken, the oldest first.
        self.recent = list(recent)

    def add(self, step: int, metrics: dict[str, float]) -> list[Spike]:
        """Add the metrics of a step that was taken; returns its spikes."""
        values = {name: metrics[name] for name in WATCHED}
        spikes = []
        if len(self.recent) >= FEWEST:
            for name, value in values.items():
                median = float(np.median([past[name] for past in self.recent]))
                if 0 < RATIO * median < value:
                    spikes.append(Spike(step, name, value, median))
        self.recent = [*self.recent, values][-WINDOW:]
        return spikes


def steps_of_spikes(spikes: Sequence[Spike]) -> dict[str, list[int]]:
    """The steps of spikes as metrics.jsonl has them, such as {"loss_spikes": [712]}."""
    steps: dict[str, list[int]] = {}
    for spike in spikes:
        steps.setdefault(f"{spike.name}_spikes", []).append(spike.step)
    return steps
