"""Mean scores over the images of an evaluation."""

from dataclasses import dataclass, field

import numpy as np

from urgt_jax.evaluation.metrics import PooledAngles
from urgt_jax.evaluation.resume import JournalEntry, Scores, unpack_counts


@dataclass
class Tally:
    """The scores so far; it does not hold maps."""

    names: tuple[str, ...]  # of the candidates
    images: list[tuple[str, dict[str, Scores]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # image name -> reason
    sizes: set[tuple[int, int]] = field(default_factory=set)  # of the ground truth, pixels
    normals: dict[str, int] = field(default_factory=dict)  # "true", "pseudo" -> number of images

    def __post_init__(self) -> None:
        self.pooled = {name: PooledAngles() for name in self.names}

    def add(self, entry: JournalEntry) -> None:
        """Add the scores of an image."""
        self.sizes.add(entry.size)
        if entry.normals:
            self.normals[entry.normals] = self.normals.get(entry.normals, 0) + 1
        self.images.append((entry.name, entry.scores))
        for name, packed in entry.angle_counts.items():
            self.pooled[name].add(unpack_counts(packed))

    def means(self) -> dict[str, Scores]:
        """By candidate: the mean of each metric over images, and normals pooled over pixels."""
        means = {}
        for name in self.names:
            means[name] = average([scores[name] for _, scores in self.images])
            means[name]["pooled"] = self.pooled[name].scores()
        return means


def average(scores: list[Scores]) -> Scores:
    """The mean of each metric over the images where it is defined, else NaN."""
    means: Scores = {}
    for kind in ("depth", "normal"):
        means[kind] = {}
        metrics = dict.fromkeys(metric for image in scores for metric in image[kind])
        for metric in metrics:
            values = np.array([image[kind].get(metric, np.nan) for image in scores], float)
            defined = np.isfinite(values).any()
            means[kind][metric] = float(np.nanmean(values)) if defined else float("nan")
    return means
