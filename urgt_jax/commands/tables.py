"""`urgt tables`: trains and scores the rows of the paper's tables."""

import argparse
from pathlib import Path

from urgt_jax.commands.fields import data_options, override
from urgt_jax.config_files import load_config
from urgt_jax.evaluation.paper_tables import _make, _published, _scores, as_html, markdown, read
from urgt_jax.files import make_folder, write_text


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that go with --table."""
    parser.add_argument(
        "--runs", type=Path, help="with --table: where its runs and tables are kept"
    )
    parser.add_argument("--base", type=Path, metavar="F.py", help="with --table: what its "
        "configurations change; else the one they name")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="with --table")
    parser.add_argument("--collect", action="store_true", help="with --table: trains nothing")


def main(told: argparse.Namespace, rest: list[str]) -> None:
    """Fills the tables of a folder of configurations; `rest` changes fields of all of them."""
    runs, base = read(told.table)
    where = make_folder(told.runs or Path("runs") / told.table.name)
    base = told.base or base
    shared = [*data_options(told.data), *rest]
    override(load_config(base), shared)  # fails before anything is trained
    if not told.collect:
        for seed in told.seeds:
            for run in runs:
                _make(run, base, where, seed, shared)
    found = {run.name: _scores(where, run.name, told.seeds) for run in runs}
    paper_only = _published(told.table)
    text, page = markdown(runs, found, paper_only), as_html(runs, found, paper_only)
    write_text(where / "tables.md", text)
    write_text(where / "tables.html", page)
    print(text)
    print(f"wrote {where / 'tables.md'} and {where / 'tables.html'}")
