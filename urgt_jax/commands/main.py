"""The console command `urgt`: finds the subcommand and runs it."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable

from urgt_jax import __version__
from urgt_jax.errors import UserError, exit_status
from urgt_jax.streams import protect_output

# By task, in the order in which a new user meets them. A subcommand is imported only when it is
# called, so that `urgt --help` does not wait for JAX.
TASKS = {
    "Refine images": {
        "refine": "refine the depth and normals of your images",
        "app": "refine images on a page in the browser",
        "convert": "convert official weights into a weight file, and back",
    },
    "Train": {
        "train": "train a refiner, or resume its training",
        "priors": "make the coarse maps of a whole data set",
        "prepare": "convert UnrealStereo4K into the form that training reads",
        "push": "publish the weights of a run on the Hugging Face hub",
        "scene": "write an analytic scene with true and coarse maps",
    },
    "Evaluate and study": {
        "eval": "score a refiner, or saved maps, on held-out images",
        "tables": "train and score the rows of the paper's tables",
        "scale": "measure cost and quality against the number of patches",
        "plan": "compile a training step for TPUs that you do not have",
    },
}
COMMANDS = [name for commands in TASKS.values() for name in commands]
HELP = ("-h", "--help", "help")


def main() -> int:
    """Runs the command line and returns its exit status."""
    protect_output()
    os.environ["JAX_ENABLE_X64"] = "0"  # the configuration decides about dtypes
    return exit_status(run)


def run() -> int | None:
    """Runs the subcommand that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] in HELP:
        print(help_text())
        return 0
    name = sys.argv[1]
    if name == "--version":
        print(f"urgt_jax {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}{suggestion(name)} (see urgt --help)")
    command = load_command(name)
    try:
        return command(sys.argv[2:])
    except (RuntimeError, AssertionError):
        # JAX fails in many ways if it finds no device. The help does not wait for this import.
        from urgt_jax.hardware import check_platforms

        check_platforms()
        raise


def load_command(name: str) -> Callable[[list[str]], int | None]:
    """The `main` function of a subcommand."""
    return importlib.import_module(f"urgt_jax.commands.{name}").main


def suggestion(name: str) -> str:
    """A hint at the command whose name is nearest."""
    near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def help_text() -> str:
    """The help that fits on one screen."""
    lines = [
        "usage: urgt COMMAND [options]",
        "",
        "Refines coarse depth and normal maps of high-resolution images, and trains the network",
        "that does it (URGT, CVPR 2026).",
    ]
    for task, commands in TASKS.items():
        lines += ["", f"{task}:"]
        lines += [f"  {name:<9} {about}" for name, about in commands.items()]
    lines += [
        "",
        "urgt COMMAND --help shows the options of a command, urgt --version the version.",
        "",
        "examples:",
        "  urgt scene --out images",
        "  urgt refine images/scene0.png --weights scenes --out refined",
        "  urgt train tiny --workdir runs/tiny",
        "  urgt eval --workdir runs/tiny",
    ]
    return "\n".join(lines)
