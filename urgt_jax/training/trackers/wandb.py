"""Weights & Biases."""

import os

import wandb

from urgt_jax.distributed import report
from urgt_jax.images.colour import RGB
from urgt_jax.remote import is_remote
from urgt_jax.training.trackers.protocol import PROJECT, TrackedRun

LOGIN_SECONDS = 60  # that a question for the API key waits for an answer


class WandbTracker:
    """Logs to Weights & Biases, under the same id after a resume.

    Its own variables choose where: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline and so on. Steps
    that it already has are ignored when they are logged again.
    """

    def __init__(self, run: TrackedRun):
        settings = wandb.Settings(
            console="off",  # the output of the program stays as it is
            silent=True,  # it would warn of every step that is logged again
            login_timeout=LOGIN_SECONDS,
        )
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            resume="allow",
            config={**run.config, "commit": run.commit},
            dir=None if is_remote(run.workdir) else str(run.workdir),  # or the current folder
            reinit="create_new",  # a run that the caller has open is left alone
            settings=settings,
        )
        place = self.run.dir if self.run.offline else self.run.url
        report(f"Weights & Biases: {place}")

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Log the values of a step."""
        self.run.log(values, step=step)

    def write_images(self, step: int, images: dict[str, RGB]) -> None:
        """Log images."""
        values = {f"images/{name}": wandb.Image(image) for name, image in images.items()}
        self.run.log(values, step=step)

    def close(self) -> None:
        """Wait until everything is uploaded."""
        self.run.finish()
