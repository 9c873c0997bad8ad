"""A profile of some steps of a run, for TensorBoard, XProf or Perfetto."""

import jax
from etils.epath import Path

from urgt_jax.distributed import is_first_process, report
from urgt_jax.errors import reason
from urgt_jax.remote import Stage
from urgt_jax.training.step import State


class StepProfiler:
    """Writes what the devices do in steps `first` to `first + count - 1`, counted from 1.

    The profile is in the folder `profile` of the work directory. Only the first process writes. If
    the `with` block of the profiler ends early by an exception, so does the profile.
    """

    def __init__(self, steps: tuple[int, int], workdir: Path):
        self.first, self.count = steps
        self.stage = Stage(workdir / "profile")
        self.running = False

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_) -> None:
        if not self.running:
            return
        # After an error there is no state to wait for, and the error itself must be seen.
        self.running = False
        try:
            jax.profiler.stop_trace()
            self.stage.upload()
        except Exception as error:  # the disk may be full
            report(f"the profile was not written: {reason(error)}")
        else:
            report(f"profile, cut short: {self.stage.folder}")

    def before(self, step: int, state: State) -> None:
        """Starts or ends the profile, before a step runs."""
        if self.count == 0 or not is_first_process():
            return
        if step == self.first:
            jax.block_until_ready(state)  # so that the step before is not in the profile
            jax.profiler.start_trace(str(self.stage.local), create_perfetto_trace=True)
            self.running = True
        elif step == self.first + self.count:
            self.close(state)

    def close(self, state: State) -> None:
        """Ends the profile, if one is being written, after the steps that led to the state."""
        if not self.running:
            return
        self.running = False
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self.stage.upload()
        report(f"profile of {self.count} steps from step {self.first}: {self.stage.folder}")
