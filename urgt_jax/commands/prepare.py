"""`urgt prepare`: converts a data set into the form that training reads."""

import json
import os
from pathlib import Path

from urgt_jax.data.unreal4k import benchmark
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import INDEX, SKIPPED
from urgt_jax.errors import Parser, require

REPORTED = 10  # skipped frames that are printed; the file lists all


def main(arguments: list[str]) -> None:
    """The command line of `urgt prepare`."""
    parser = Parser(
        prog="urgt prepare",
        description="Converts UnrealStereo4K into tiles, of which training reads only what it "
        "needs. Run the same command again to resume.",
        epilog="example: urgt prepare unreal4k --source UnrealStereo4K --out u4k",
    )
    data_sets = parser.add_subparsers(dest="data_set", required=True, metavar="DATA_SET")
    unreal4k = data_sets.add_parser("unreal4k", help="prepare UnrealStereo4K")
    add = unreal4k.add_argument
    add("--source", type=Path, required=True, help="folder of the extracted scenes 00000 to 00008")
    add("--out", type=Path, required=True, help="folder for the prepared data set")
    add(
        "--splits",
        type=Path,
        metavar="PATH",
        help="folder of split files (train.txt, val.txt, test_in.txt, test_out.txt as in "
        "PatchFusion, or train.txt, val.txt, test.txt, out_test.txt as in SMD-Nets), or one of "
        "these files (default: splits/ or filenames/ in the source, or the source itself)",
    )
    add(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="number of processes (default: one per core)",
    )
    speed = data_sets.add_parser(
        "unreal4k-benchmark", help="measure how fast tiles are read, against whole PNG files"
    )
    benchmark.add_options(speed)
    args = parser.parse_args(arguments)
    if args.data_set == "unreal4k-benchmark":
        benchmark.run(args.frames, tuple(args.size), args.repeat)
    else:
        _prepare_unreal4k(args.source, args.out, args.splits, args.workers)


def _prepare_unreal4k(source: Path, out: Path, splits: Path | None, workers: int) -> None:
    require(workers >= 1, f"--workers {workers}: at least one is needed")
    skipped = prepare(source, out, splits, workers)
    for name, reason in list(skipped.items())[:REPORTED]:
        print(f"skipped {name}: {reason}")
    frames = json.loads((out / INDEX).read_text())
    counts = ", ".join(f"{split} {len(names)}" for split, names in frames.items())
    print(f"{out}: {counts} frames; {len(skipped)} skipped, all listed in {out / SKIPPED}")
