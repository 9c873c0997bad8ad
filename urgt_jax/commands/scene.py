"""`urgt scene`: writes an analytic scene."""

from pathlib import Path

from urgt_jax.config import Prior
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.scenes import SPLITS
from urgt_jax.data.scenes.export import write_scene
from urgt_jax.errors import Parser, require
from urgt_jax.files import make_folder
from urgt_jax.images.files import SMALLEST


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="urgt scene",
        description="Renders an analytic scene: picture, coarse maps, true maps.",
    )
    parser.add_argument("--seed", type=int, default=0, help="which scene")
    parser.add_argument("--split", choices=SPLITS, default="test", help="family of scenes")
    parser.add_argument("--degrade", choices=STRENGTHS, help="how much worse than the truth coarse "
        "maps are; else as configs/tiny.py trains")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, default=(2160, 3840), metavar=("H", "W"))
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    told = parser.parse_args(arguments)
    require(told.seed >= 0, f"--seed {told.seed} must not be negative")
    require(min(told.size) >= SMALLEST, f"--size {told.size}: sides are at least {SMALLEST}")
    prior = STRENGTHS.get(told.degrade, Prior())
    write_scene(
        make_folder(told.out), f"scene{told.seed}", told.seed, told.split, tuple(told.size), prior
    )
