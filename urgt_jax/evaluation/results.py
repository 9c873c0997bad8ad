"""metrics.json, the results of an evaluation, with a checksum."""

import json

from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.files import read_json_object, seal, unseal, write_text
from urgt_jax.remote import absolute
from urgt_jax.weights.weight_file import SHIPPED

RESULTS = "metrics.json"


def scores_folder(path: Path) -> Path:
    """The folder NAME_scores next to weights or predictions, where their results are written."""
    path = absolute(path)
    name = path.stem if path.is_file() else path.name
    if path.parent == SHIPPED:  # do not write into the installed package
        return Path(f"{path.stem}_scores")
    return path.with_name(f"{name}_scores")


def write_results(folder: Path, results: dict) -> Path:
    """Write the results of an evaluation and return the file."""
    path = folder / RESULTS
    write_text(path, json.dumps(seal(results), indent=1) + "\n")
    return path


def read_results(folder: Path) -> dict:
    """The results of an evaluation; a UserError if they are missing, damaged or changed."""
    path = folder / RESULTS
    content = read_json_object(path)
    try:
        return unseal(content)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Run urgt eval again") from error
