"""`urgt tables`: trains and scores the rows of the paper's tables."""

import argparse

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.fields import FieldsParser, data_options, override
from urgt_jax.config_files import find_config_folder, load_config
from urgt_jax.errors import NegativeResult, UserError, print_error
from urgt_jax.evaluation import paper_tables
from urgt_jax.files import make_folder, write_text

DESCRIPTION = """
Trains and scores the configurations of a folder whose rows make up the paper's tables, and writes
the tables with our results beside the paper's. Runs that are finished are not repeated.
"""
EXAMPLES = """
any field of the configuration is an option too and changes all rows; they are listed below.

examples:
  urgt tables ablations --data unreal4k data/unreal4k
  urgt tables ablations --base tiny --seeds 0 1 2
  urgt tables ablations --collect
"""


def main(arguments: list[str] | None = None) -> None:
    """Runs `urgt tables`."""
    args, fields = make_parser().parse_known_args(arguments)
    compile_cache.start(args.cache)
    folder = find_config_folder(args.folder)
    experiments, base = paper_tables.load_experiments(folder)
    base = args.base or base
    fields = [*data_options(args.data), *fields]
    override(load_config(base), fields)  # report a wrong field before anything is trained
    runs = make_folder(args.runs or Path("runs") / folder.name)
    failed = []
    if not args.collect:
        for seed in args.seeds:
            for experiment in experiments:
                try:
                    paper_tables.run_experiment(experiment, base, runs, seed, fields)
                except UserError as error:
                    print_error(str(error))
                    failed.append(f"{experiment.name} with seed {seed}")
    scores = {}
    for experiment in experiments:
        scores[experiment.name] = paper_tables.load_scores(runs, experiment.name, args.seeds)
    published = paper_tables.load_published(folder)
    tables = paper_tables.fill_tables(experiments, scores, published)
    settings = paper_tables.describe_settings(scores)
    text = paper_tables.to_markdown(tables, settings)
    write_text(runs / "tables.md", text)
    write_text(runs / "tables.html", paper_tables.to_html(tables, settings))
    written = [runs / "tables.md", runs / "tables.html"]
    if args.latex:
        written.append(runs / "tables.tex")
        write_text(written[-1], paper_tables.to_latex(tables, settings))
    print(text)
    print(f"wrote {', '.join(str(path) for path in written)}")
    if failed:
        raise NegativeResult(
            f"{len(failed)} runs failed ({', '.join(failed)}). Run the same command again to "
            "repeat them"
        )
    if not any(scores.values()):
        raise NegativeResult(f"no run in {runs} is finished: the tables have no results of ours")


def make_parser() -> FieldsParser:
    """The options of the command."""
    parser = FieldsParser(
        prog="urgt tables",
        usage="urgt tables DIR [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="DIR", help="folder of configurations, such as configs/ablations"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help="folder for the runs and the tables (default: runs/NAME)",
    )
    parser.add_argument(
        "--base",
        metavar="CONFIG",
        help="configuration that every row changes (default: the one that the rows name)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="seeds to train each row with (default: 0)",
    )
    parser.add_argument(
        "--collect", action="store_true", help="train and score nothing, use the finished runs"
    )
    parser.add_argument(
        "--latex",
        action="store_true",
        help="also write tables.tex, for the packages booktabs and amsmath",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar=("SOURCE", "PATH"),
        help="data set and its folder, see docs/data-sets.md (default: as configured)",
    )
    compile_cache.add_option(parser)
    return parser
