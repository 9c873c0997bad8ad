"""Which images an evaluation shows: the worst ones as pages, the first ones as sheets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from urgt_jax.config import Config
from urgt_jax.evaluation import metrics, report
from urgt_jax.evaluation.resume import Entry
from urgt_jax.evaluation.score import ScoredImage, _windows
from urgt_jax.images.files import write_image

EXAMPLES = 6  # pictures on the sheets, at most
Drawn = Callable[[], report.Layers]


class WorstImages:
    """Keeps pages of the pictures with the largest error, so that the rest costs no disk."""

    def __init__(self, out: Path, side: str, count: int):
        self.out, self.side, self.count = out, side, count
        self.kept: dict[str, float] = {}  # name -> error

    def rank(self, entry: Entry) -> list[str]:
        """Notes a picture if it is among the worst so far; the names of those that no longer are.

        The same in any order, and for a picture that is noted already.
        """
        scores = entry.scores[self.side]
        error = scores["depth"].get("abs_rel", scores["normal"].get("mean", np.nan))
        self.kept[entry.name] = -np.inf if np.isnan(error) else error
        ranked = sorted(self.kept, key=lambda name: (self.kept[name], name), reverse=True)
        for name in ranked[self.count :]:
            del self.kept[name]
        return ranked[self.count :]

    def offer(self, entry: Entry, drawn: Drawn) -> None:
        """Writes the picture's layers if it is among the worst so far."""
        dropped = self.rank(entry)
        if entry.name in self.kept:
            report.write_layers(self.out, entry.name, drawn())
        for name in dropped:
            report.drop_layers(self.out, name)


class ExampleSheets:
    """Keeps the first pictures for the sheets, whole and where maps are hard to get right."""

    def __init__(self):
        self.whole: list[report.Layers] = []
        self.zooms: list[report.Layers] = []

    def add(self, drawn: Drawn, config: Config) -> None:
        """Keeps a picture if it is among the first."""
        if len(self.whole) < EXAMPLES:
            self.whole.append(report.reduced(drawn()))
            self.zooms += report.zooms(drawn(), _windows(drawn().valid.shape, config))

    def write(self, out: Path) -> None:
        """The sheets as examples.png and zooms.png."""
        write_image(out / "examples.png", report.sheet(self.whole))
        made = {"examples.png": self.whole, "zooms.png": self.zooms}
        made = {name: shown for name, shown in made.items() if shown}
        for name, shown in made.items():
            write_image(out / name, report.sheet(shown))
        print(f"the first {len(self.whole)} side by side in {out}: {', '.join(made)}")


def layers(scored: ScoredImage) -> report.Layers:
    """The maps of a picture as the report shows them, depth as 1/metres."""
    truth = scored.truth
    shown = {n: s for n, s in scored.sides.items() if n != "smoothed"}
    depth = {n: 1 / s.metres for n, s in shown.items() if s.metres is not None}
    normal = {n: s.normal for n, s in shown.items() if s.normal is not None}
    known = truth.valid
    if normal:
        normal["truth"], known = metrics.true_normals(truth)
    depth["truth"] = np.where(truth.known, 1 / np.maximum(truth.depth, 1e-3), 0).astype(np.float32)
    return report.Layers(scored.image, depth, normal, truth.valid, known)
