"""Which images an evaluation shows: pages of the worst ones, sheets of the first ones."""

import numpy as np
from etils.epath import Path

from urgt_jax.evaluation import metrics, report
from urgt_jax.evaluation.resume import JournalEntry
from urgt_jax.evaluation.score import ScoredImage
from urgt_jax.images.files import write_image
from urgt_jax.images.grid import Grid

SHEET_IMAGES = 6  # number of images on the sheets


class WorstImages:
    """The images with the largest errors of one candidate, which get pages of their own."""

    def __init__(self, candidate: str, count: int):
        self.candidate = candidate
        self.count = count
        self.errors: dict[str, float] = {}  # by image name

    def rank(self, entry: JournalEntry) -> list[str]:
        """Add an image, and return the names of the images that no longer are among the worst.

        The result does not depend on the order of images; an image may be added twice.
        """
        scores = entry.scores[self.candidate]
        error = scores["depth"].get("abs_rel", scores["normal"].get("mean", np.nan))
        self.errors[entry.name] = -np.inf if np.isnan(error) else error
        ranked = sorted(self.errors, key=lambda name: (self.errors[name], name), reverse=True)
        dropped = ranked[self.count :]
        for name in dropped:
            del self.errors[name]
        return dropped


class ExampleSheets:
    """The first images side by side: reduced to fit, and cropped where maps are difficult."""

    def __init__(self):
        self.reduced: list[report.Layers] = []
        self.zooms: list[report.Layers] = []

    @property
    def full(self) -> bool:
        """Whether no more images are shown."""
        return len(self.reduced) >= SHEET_IMAGES

    def add(self, layers: report.Layers, windows: Grid) -> None:
        """Add an image, cut into those patches."""
        self.reduced.append(report.reduced(layers))
        self.zooms += report.zooms(layers, windows)

    def write(self, out: Path) -> list[Path]:
        """Write examples.png and, if there are crops, zooms.png; return their paths."""
        paths = []
        for name, examples in (("examples.png", self.reduced), ("zooms.png", self.zooms)):
            if examples:
                write_image(out / name, report.sheet(examples))
                paths.append(out / name)
        return paths


def image_layers(scored: ScoredImage) -> report.Layers:
    """The maps of an image as the report shows them, depth as 1/metres."""
    truth = scored.truth
    depth = {}
    normal = {}
    for name, candidate in scored.candidates.items():
        if name == "smoothed":  # a baseline for the numbers only
            continue
        if candidate.depth is not None:
            depth[name] = 1 / candidate.depth
        if candidate.normal is not None:
            normal[name] = candidate.normal
    normal_valid = truth.valid
    if normal:
        normal["truth"], normal_valid = metrics.true_normals(truth)
    disparity = np.where(truth.known, 1 / np.maximum(truth.depth, 1e-3), 0)
    depth["truth"] = disparity.astype(np.float32)
    return report.Layers(scored.image, depth, normal, truth.valid, normal_valid)
