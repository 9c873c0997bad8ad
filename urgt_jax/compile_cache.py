"""Compiled programs that are kept on disk, so that a machine compiles each of them once."""

import argparse
import os
import sys
from functools import cache

import jax
from etils.epath import Path

from urgt_jax.files import find_paths, make_folder, user_cache
from urgt_jax.remote import is_remote

MAX_BYTES = 5e9  # the oldest programs are removed above that
OFF = "off"
# JAX's own variables, which programs that a command starts take over.
VARIABLE = "JAX_COMPILATION_CACHE_DIR"
SHORTEST_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def add_option(parser: argparse.ArgumentParser, default: str = "~/.cache/urgt/compiled") -> None:
    """Adds the option --cache."""
    parser.add_argument(
        "--cache",
        metavar="DIR|off",
        help=f"folder that keeps compiled programs (default: {VARIABLE}, or {default}); off "
        "compiles all of them again",
    )


def user_folder() -> Path:
    """The folder of this user's compiled programs: in URGT_CACHE, or in ~/.cache/urgt."""
    return user_cache() / "compiled"


def start(choice: str | None, run: Path | None = None) -> None:
    """Keeps the programs that are compiled from here on.

    `choice` is the value of --cache. Without it, the programs of a training run are kept in its
    work directory `run`, and all others in the user's folder. A folder that cannot be written costs
    time but no results, so that the command goes on without one.
    """
    if choice == OFF:
        os.environ.pop(VARIABLE, None)
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if choice is None and VARIABLE in os.environ:
        return
    if choice is None and run is not None:
        folder = run / "compiled"  # JAX makes it, once the run has claimed its work directory
    else:
        folder = Path(choice) if choice else user_folder()
        try:
            # The programs in it are run without a check, so that nobody else should write there.
            if is_remote(folder):
                make_folder(folder)  # JAX would create a bucket that is missing
            else:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            remove_oldest(folder, MAX_BYTES)
        except OSError as error:
            print(f"compiled programs are not kept: {folder}: {error.strerror}", file=sys.stderr)
            return
    if is_remote(folder):
        # XLA's own caches, of kernels on GPUs, are local files in the same folder.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    os.environ[VARIABLE] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX would keep only programs that take a second. Refining an image takes dozens of small ones.
    os.environ.setdefault(SHORTEST_VARIABLE, "0")
    shortest = float(os.environ[SHORTEST_VARIABLE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)


def remove_oldest(folder: Path, largest: float) -> None:
    """Removes JAX's oldest programs in a folder until at most `largest` bytes of them are left."""
    files = []
    for path in find_paths(folder, "*-cache"):  # JAX's names; other files are not ours
        try:
            status = path.stat()
        except FileNotFoundError:  # another command has removed it meanwhile
            continue
        files.append((status.mtime, status.length, path))
    total = sum(length for _, length, _ in files)
    for _, length, path in sorted(files):
        if total <= largest:
            break
        path.unlink(missing_ok=True)
        total -= length


class CompileTimer:
    """Measures how long programs take to be compiled, or to be read from the cache."""

    def __init__(self):
        self.programs = 0
        self.from_cache = 0
        self.seconds = 0.0
        jax.monitoring.register_event_listener(self._count_hit)
        jax.monitoring.register_event_duration_secs_listener(self._add_program)

    def _count_hit(self, event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            self.from_cache += 1

    def _add_program(self, event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs += 1
            self.seconds += seconds

    def take(self) -> str:
        """What was compiled since the last call, such as "compiled in 12.3 s"; empty if nothing."""
        words = ""
        if self.programs:
            words = f"compiled in {self.seconds:.1f} s"
        if self.from_cache:
            words += f" ({self.from_cache} of {self.programs} programs from the cache)"
        self.programs = 0
        self.from_cache = 0
        self.seconds = 0.0
        return words


@cache
def compile_timer() -> CompileTimer:
    """The one timer of this process."""
    return CompileTimer()
