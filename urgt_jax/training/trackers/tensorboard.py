"""TensorBoard: event files in the work directory."""

from tensorboardX import SummaryWriter

from urgt_jax.images.colour import RGB
from urgt_jax.remote import Stage, is_remote
from urgt_jax.training.trackers.protocol import TrackedRun

FLUSH_SECONDS = 20  # between writes to disk


class TensorBoardTracker:
    """Writes event files to the folder `tensorboard` of the work directory.

    When a run is resumed, TensorBoard hides the events of later steps, which are written again.
    """

    def __init__(self, run: TrackedRun):
        self.stage = Stage(run.workdir / "tensorboard")
        self.writer = SummaryWriter(
            str(self.stage.local), purge_step=run.step + 1, flush_secs=FLUSH_SECONDS
        )
        fields = [f"| {name} | {value} |" for name, value in run.config.items()]
        table = "\n".join(["| field | value |", "|---|---|", *fields])
        self.writer.add_text("config", table, run.step)
        self.writer.add_text("run", f"id {run.id}, {run.commit}", run.step)

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Add a point to the curve of every value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if is_remote(self.stage.folder):
            self.writer.flush()
            self.stage.upload()

    def write_images(self, step: int, images: dict[str, RGB]) -> None:
        """Add images."""
        for name, image in images.items():
            self.writer.add_image(f"images/{name}", image, step, dataformats="HWC")

    def close(self) -> None:
        """Wait until everything is on disk."""
        self.writer.close()
        self.stage.upload()
