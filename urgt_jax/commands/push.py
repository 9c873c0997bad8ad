"""`urgt push`: publishes the weights of a run on the Hugging Face hub."""

import argparse
import tempfile

from etils.epath import Path

from urgt_jax.commands.parser import Parser
from urgt_jax.errors import require
from urgt_jax.evaluation.model_card import model_card
from urgt_jax.evaluation.results import RESULTS, read_results, scores_folder
from urgt_jax.weights import hub
from urgt_jax.weights.tensor_files import open_tensors
from urgt_jax.weights.weight_file import locate_weights, read_config

PICTURE = "examples.png"  # what urgt eval writes
EPILOG = """\
Uploads the weights with a model card: data, protocol and metrics of `urgt eval`, the licence, and
the sheet of example images. Log in first: hf auth login.

example:
  urgt push runs/small me/urgt-small --licence apache-2.0
"""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    weights = locate_weights(args.run)
    _, config = read_config(open_tensors(weights), weights)
    repository = hub.parse_repository(f"hf://{args.repository}")
    require(
        repository.file is None and repository.revision is None,
        f"{args.repository} is not the name of a repository. Write ORG/REPOSITORY",
    )
    results = find_results(args.run, weights)
    scores = None
    files = {hub.USUAL_NAME: weights}
    picture = None
    if results is not None:
        scores = read_results(results)
        if (results / PICTURE).is_file():
            picture = PICTURE
            files[PICTURE] = results / PICTURE
    card = model_card(args.repository, config, args.licence, scores, picture)
    if scores is None:
        print("the card has no metrics: run urgt eval first to add them")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "README.md").write_text(card)
        address = hub.upload(
            args.repository, files | {"README.md": Path(folder) / "README.md"}, args.private
        )
    print(f"published: {address}")


def find_results(run: Path, weights: Path) -> Path | None:
    """The folder with the results of `urgt eval` about a run or a weight file; None without."""
    # What `urgt eval --workdir` writes, and `urgt eval --weights`.
    for folder in (weights.parent, scores_folder(run), scores_folder(weights)):
        if (folder / RESULTS).is_file():
            return folder
    return None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt push",
        usage="urgt push RUN ORG/REPOSITORY --licence NAME [--private]",
        description="Publish the weights of a run on the Hugging Face hub.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="work directory, or a weight file")
    parser.add_argument("repository", metavar="ORG/REPOSITORY", help="repository on the hub")
    parser.add_argument(
        "--licence",
        required=True,
        help="licence of the weights, as the hub spells it, such as apache-2.0; the data and the "
        "initial weights may restrict the choice",
    )
    parser.add_argument(
        "--private", action="store_true", help="make a new repository private (default: public)"
    )
    return parser
