"""Mean scores over the images of an evaluation."""

from dataclasses import dataclass, field

import numpy as np

from urgt_jax.evaluation.metrics import PooledAngles
from urgt_jax.evaluation.resume import JournalEntry, Scores, unpack_counts
from urgt_jax.evaluation.statistics import bootstrap_intervals


@dataclass
class Tally:
    """The scores so far; it does not hold maps."""

    names: tuple[str, ...]  # of the candidates
    images: list[tuple[str, dict[str, Scores]]] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)  # of each image
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
        self.scenes.append(entry.scene)
        for name, packed in entry.angle_counts.items():
            self.pooled[name].add(unpack_counts(packed))

    def means(self) -> dict[str, Scores]:
        """By candidate: the mean of each metric over images, and normals pooled over pixels."""
        means = {}
        for name in self.names:
            means[name] = average([scores[name] for _, scores in self.images])
            means[name]["pooled"] = self.pooled[name].scores()
        return means

    def scene_means(self) -> dict[str, dict[str, Scores]]:
        """By scene, then by candidate: the mean of each metric; empty without scenes."""
        by_scene: dict[str, list[dict[str, Scores]]] = {}
        for (_, scores), scene in zip(self.images, self.scenes, strict=True):
            if scene:
                by_scene.setdefault(scene, []).append(scores)
        means = {}
        for scene, images in by_scene.items():
            means[scene] = {name: average([image[name] for image in images]) for name in self.names}
        return means

    def intervals(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """By candidate: the 95 % interval of the mean of each metric over images."""
        keys = []
        for name in self.names:
            for kind in ("depth", "normal"):
                metrics = dict.fromkeys(
                    metric for _, scores in self.images for metric in scores[name][kind]
                )
                keys += [(name, kind, metric) for metric in metrics]
        values = np.full((len(self.images), len(keys)), np.nan)
        for row, (_, scores) in enumerate(self.images):
            for column, (name, kind, metric) in enumerate(keys):
                values[row, column] = scores[name][kind].get(metric, np.nan)
        intervals = {name: {"depth": {}, "normal": {}} for name in self.names}
        ends = bootstrap_intervals(values)
        for (name, kind, metric), interval in zip(keys, ends, strict=True):
            intervals[name][kind][metric] = interval.tolist()
        return intervals


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
