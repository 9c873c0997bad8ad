"""`urgt prepare`: converts a data set into the form that training reads."""

import argparse
import os

from etils.epath import Path

from urgt_jax.commands.parser import Parser, add_max_skipped, add_size
from urgt_jax.data.unreal4k.benchmark import benchmark
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import INDEX, SKIPPED
from urgt_jax.errors import NegativeResult, printable, require
from urgt_jax.files import read_json_object, unseal

PRINTED = 10  # skipped frames that are printed; skipped.txt lists all
TARGETS = {1: 10, 4: 2}  # by M: how many times faster tiles should be than whole files


def main(arguments: list[str] | None = None) -> None:
    """The command line of `urgt prepare`."""
    args = make_parser().parse_args(arguments)
    if args.data_set == "unreal4k-benchmark":
        run_benchmark(args.frames, tuple(args.size), args.repeat)
    else:
        prepare_unreal4k(args.source, args.out, args.splits, args.workers, args.max_skipped)


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        prog="urgt prepare",
        description="Converts UnrealStereo4K into tiles, so that training reads only the pixels "
        "it needs. Run the same command again to resume.",
        epilog="example: urgt prepare unreal4k --source UnrealStereo4K --out u4k",
    )
    data_sets = parser.add_subparsers(dest="data_set", required=True, metavar="DATA_SET")
    add_unreal4k(data_sets)
    add_benchmark(data_sets)
    return parser


def add_unreal4k(data_sets) -> None:
    """The options of `urgt prepare unreal4k`."""
    parser = data_sets.add_parser(
        "unreal4k",
        help="prepare UnrealStereo4K",
        description="Converts UnrealStereo4K into tiles. Run the same command again to resume; it "
        "also tries the skipped frames again.",
        epilog="example: urgt prepare unreal4k --source UnrealStereo4K --out u4k --workers 8",
    )
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the extracted scenes 00000 to 00008",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the prepared data set"
    )
    parser.add_argument(
        "--splits",
        type=Path,
        metavar="PATH",
        help="folder of split files, or one of these files: train.txt, val.txt, test_in.txt, "
        "test_out.txt as in PatchFusion, or train.txt, val.txt, test.txt, out_test.txt as in "
        "SMD-Nets (default: splits/ or filenames/ in the source folder, or that folder itself)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="number of processes (default: one per core)",
    )
    add_max_skipped(parser, "frames")


def add_benchmark(data_sets) -> None:
    """The options of `urgt prepare unreal4k-benchmark`."""
    parser = data_sets.add_parser(
        "unreal4k-benchmark",
        help="measure how fast tiles are read, compared with whole files",
        description="Makes frames in the form of UnrealStereo4K, prepares them, and compares the "
        "time to read a block of M x M patches from whole files and from tiles.",
        epilog="example: urgt prepare unreal4k-benchmark --frames 4 --size 1080 1920",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=6,
        metavar="N",
        help="number of frames (default: %(default)s)",
    )
    add_size(parser, "a frame")
    parser.add_argument(
        "--repeat",
        type=int,
        default=20,
        metavar="N",
        help="number of blocks to read for each M (default: %(default)s)",
    )


def prepare_unreal4k(
    source: Path, out: Path, splits: Path | None, workers: int, max_skipped: int | None
) -> None:
    """Prepares the data set and prints what was skipped, which is a negative result."""
    require(workers >= 1, f"--workers {workers} is out of range: it must be at least 1")
    skipped = prepare(source, out, splits, workers, max_skipped)
    for name, reason in list(skipped.items())[:PRINTED]:
        print(printable(f"skipped {name}: {reason}"))
    frames = unseal(read_json_object(out / INDEX))
    counts = ", ".join(f"{split} {len(names)}" for split, names in frames.items())
    print(f"{out}: frames prepared: {counts}")
    if skipped:
        raise NegativeResult(
            f"{len(skipped)} frames were skipped (list: {out / SKIPPED}). Repair them and run the "
            "same command again"
        )


def run_benchmark(frames: int, size: tuple[int, int], repeat: int) -> None:
    """Measures, and prints a table."""
    require(frames >= 1, f"--frames {frames} is out of range: it must be at least 1")
    require(repeat >= 1, f"--repeat {repeat} is out of range: it must be at least 1")
    height, width = size
    require(min(size) >= 16, f"--size {height} {width} is too small: the least is 16 16")
    sizes, times = benchmark(frames, size, repeat)
    print(
        f"a frame of {height} x {width} pixels: PNG {sizes.png:.1f} MB and .npy "
        f"{sizes.npy:.1f} MB, as tiles {sizes.tiles:.1f} MB, prepared in {sizes.seconds:.2f} s by "
        "one process"
    )
    print("M  whole files, blocks/s  tiles, blocks/s  ratio  target ratio")
    for row in times:
        ratio = row.whole / row.tiles
        target = TARGETS.get(row.m, "")
        print(f"{row.m}  {1 / row.whole:21.2f}  {1 / row.tiles:15.1f}  {ratio:5.1f}  {target:>12}")
