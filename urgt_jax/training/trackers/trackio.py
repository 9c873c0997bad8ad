"""Trackio."""

import trackio

from urgt_jax.images.colour import RGB
from urgt_jax.training.trackers.protocol import PROJECT, TrackedRun


class TrackioTracker:
    """Logs to Trackio, under the same name after a resume.

    Its own variables choose where, such as TRACKIO_DIR or TRACKIO_SPACE_ID. Steps that are logged
    again after a resume are stored twice, with the same values.
    """

    def __init__(self, run: TrackedRun):
        self.run = trackio.init(
            project=PROJECT,
            name=f"{run.name}-{run.id}",  # Trackio finds a run by its name
            resume="allow",
            config={**run.config, "commit": run.commit},
            embed=False,
            auto_log_cpu=False,  # threads that measure would take time from the run
            auto_log_gpu=False,
        )

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Log the values of a step."""
        self.run.log(values, step=step)

    def write_images(self, step: int, images: dict[str, RGB]) -> None:
        """Log images."""
        values = {f"images/{name}": trackio.Image(image) for name, image in images.items()}
        self.run.log(values, step=step)

    def close(self) -> None:
        """Wait until everything is stored."""
        self.run.finish()
