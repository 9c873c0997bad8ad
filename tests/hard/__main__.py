"""Runs the hard checks and prints one table: python -m tests.hard --help."""

import argparse
import sys
import tempfile
import time

from etils.epath import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `helpers`, as in the tests

PARTS = ("damage", "hostile", "kills", "growth")


def main() -> int:
    """Run the parts and return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.hard", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--changes", type=int, default=500, help="changed files")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs of training")
    parser.add_argument("--others", type=int, default=20, help="SIGKILLs of each other command")
    parser.add_argument("--commands", nargs="+", help="commands to kill, as the table names them")
    parser.add_argument("--steps", type=int, default=5000, help="steps of training for memory")
    parser.add_argument("--images", type=int, default=500, help="images for memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = []
    problems = []
    for part in args.parts:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            part_rows, part_problems = run_part(part, Path(folder), args)
        rows += part_rows
        problems += part_problems
        print(f"{part}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print("| Check | Tried | Result |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    for problem in problems:
        print(f"PROBLEM {problem}")
    return 1 if problems else 0


def run_part(part: str, folder: Path, args: argparse.Namespace) -> tuple[list, list]:
    """The rows and the problems of one part."""
    if part == "hostile":
        from tests.hard import hostile  # before anything starts the threads of JAX

        return hostile.run(folder)
    if part == "damage":
        from tests.hard import damage

        return damage.run(folder, args.changes, args.seed)
    if part == "kills":
        from tests.hard import kills

        return kills.run(folder, args.kills, args.others, args.commands, args.seed)
    from tests.hard import growth

    return growth.run(folder, args.steps, args.images)


if __name__ == "__main__":
    sys.exit(main())
