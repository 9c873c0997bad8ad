"""`urgt prepare`: converts a data set into the form that training reads."""

import json
import os
from pathlib import Path

from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import INDEX, SKIPPED
from urgt_jax.errors import Parser, UserError


def main() -> None:
    """The command line."""
    parser = Parser(
        prog="python -m urgt_jax.data.unreal4k",
        description="Prepares UnrealStereo4K for training; a second call goes on with the rest.",
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="folder of the extracted scenes 00000 to 00008")
    add("--out", type=Path, required=True, help="folder for the prepared data set")
    add("--splits", type=Path, metavar="PATH", help="folder of train.txt, val.txt, test_in.txt and "
        "test_out.txt (PatchFusion) or train.txt, val.txt, test.txt and out_test.txt (SMD-Nets), "
        "or one of these files; else splits/ or filenames/ in the source, or the source itself",
    )  # fmt: skip
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes")
    told = parser.parse_args()
    if told.workers < 1:
        raise UserError(f"--workers {told.workers}: there must be at least one")
    skipped = prepare(told.source, told.out, told.splits, told.workers)
    for name, why in list(skipped.items())[:10]:
        print(f"skipped {name}: {why}")
    frames = json.loads((told.out / INDEX).read_text())
    counts = ", ".join(f"{split} {len(found)}" for split, found in frames.items())
    print(
        f"{told.out}: {counts} frames; {len(skipped)} skipped, all listed in {told.out / SKIPPED}"
    )
