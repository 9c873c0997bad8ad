"""Weights that are found without a path: in the user's cache, or on the Hugging Face hub.

Official weights are converted once and kept as NAME.safetensors in the folder `weights` of the
cache. An official file that was put there by hand is converted too.
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from etils.epath import Path

from urgt_jax.errors import UserError, import_extra, one_line, require
from urgt_jax.files import make_folder, parse_json, user_cache, write_text
from urgt_jax.remote import local_copy
from urgt_jax.weights.convert import convert
from urgt_jax.weights.download import PUBLISHED, download
from urgt_jax.weights.tensor_files import open_tensors
from urgt_jax.weights.weight_file import CONFIG_KEY, DEFAULT_WEIGHTS

# The published weights of each kind of model, the best first. The last is the smallest, which is
# downloaded if there is none.
PREFERENCE = {
    "refiner": ("urgt",),
    "depth_anything": ("depth_anything_l", "depth_anything_b", "depth_anything_s"),
    "metric3d": ("metric3d_g", "metric3d_l", "metric3d_s"),
}
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([^/@]+))?(?:/([^@]+))?")
USUAL_NAME = "weights.safetensors"  # of the weight file in a repository
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def weights_folder() -> Path:
    """The folder of weights in the user's cache."""
    return user_cache() / "weights"


def best_name(kind: str) -> str:
    """The best weights of a kind of model that are in the cache, or the ones to download."""
    for name in PREFERENCE[kind]:
        if is_available(name):
            return name
    return PREFERENCE[kind][-1]


def is_available(name: str) -> bool:
    """Whether published weights are in the cache, converted or as their authors store them."""
    folder = weights_folder()
    return (folder / f"{name}.safetensors").is_file() or (folder / PUBLISHED[name].file).is_file()


def obtain(names: Sequence[str], accept: Callable[[list[str]], None]) -> dict[str, Path]:
    """The weight files of published weights by name: from the cache, or downloaded and converted.

    Before the first download, `accept` gets a line about each file with its licence; it raises an
    error if the user does not agree. It is not called again for what was accepted once.
    """
    missing = [name for name in names if not is_available(name)]
    agreed_path = weights_folder() / "licences.json"
    agreed = _accepted_before(agreed_path)
    new = [name for name in missing if name not in agreed]
    if new:
        accept([f"{PUBLISHED[name].url}, licence: {PUBLISHED[name].licence}" for name in new])
        make_folder(weights_folder())
        write_text(agreed_path, json.dumps(agreed + new))
    for name in missing:
        _download(name, missing)
    return {name: _converted(name) for name in names}


def _accepted_before(path: Path) -> list[str]:
    """The names of weights whose licences the user has accepted; a damaged list counts as none."""
    if not path.is_file():
        return []
    try:
        names = parse_json(path.read_bytes())
    except ValueError:
        return []
    return names if isinstance(names, list) else []


def _download(name: str, missing: list[str]) -> None:
    """Download a published file into the cache; a UserError says how to do that by hand."""
    published = PUBLISHED[name]
    try:
        print(f"downloading {published.url} ...", flush=True)
        download(published, make_folder(weights_folder()) / published.file)
    except ImportError as error:
        raise UserError(f'{_by_hand(missing)} Or run: pip install "urgt-jax[hub]"') from error
    except Exception as error:  # the network libraries raise dozens of their own
        problem = one_line(f"{type(error).__name__}: {error}")[:80]
        raise UserError(f"the download failed ({problem}). {_by_hand(missing)}") from error


def _by_hand(names: list[str]) -> str:
    """Which files to get from where, in one line."""
    files = " ".join(f"{PUBLISHED[name].host}/{PUBLISHED[name].file}" for name in names)
    return (
        f"Put into {_short(weights_folder())}, from huggingface.co: {files}. "
        f"--weights {DEFAULT_WEIGHTS} works offline"
    )


def _short(path: Path) -> str:
    """The path from the current folder or from the user's home, if it is inside one of them."""
    local = pathlib.Path(path)
    for base, start in ((pathlib.Path.cwd(), ""), (pathlib.Path.home(), "~/")):
        if local.is_relative_to(base):
            return f"{start}{local.relative_to(base)}"
    return str(path)


def _converted(name: str) -> Path:
    """The weight file in the cache, converted from the official file where it is missing."""
    target = weights_folder() / f"{name}.safetensors"
    if not target.is_file():
        source = weights_folder() / PUBLISHED[name].file
        convert(source, target)
        source.unlink()  # the weight file holds the same numbers
    return target


class Repository(NamedTuple):
    """A place on the hub: hf://ORG/NAME[@REVISION][/FILE]."""

    name: str
    revision: str | None
    file: str | None


def parse_repository(address: str) -> Repository:
    """The repository of an address that begins with hf://; a UserError for another form."""
    # Paths have lost one of the slashes.
    match = REPOSITORY.fullmatch(re.sub("^hf:/+", "", address))
    require(
        match,
        f"{address} is not an address on the hub. Write hf://ORG/REPOSITORY[@REVISION][/FILE]",
    )
    return Repository(*match.groups())


def fetch_repository(address: str) -> Path:
    """The weight file of a repository on the hub, as it is or converted, from the cache if it can.

    A UserError if the repository does not exist or has no weights that can be told apart.
    """
    repository = parse_repository(address)
    hub = import_extra("huggingface_hub", "hub")
    try:
        file = repository.file or _find_file(hub, repository)
        local = Path(hub.hf_hub_download(repository.name, file, revision=repository.revision))
    except UserError:
        raise
    except Exception as error:  # of the network, of the hub, or of the repository's name
        reason = one_line(str(error))[:150]
        raise UserError(
            f"{address} cannot be downloaded ({type(error).__name__}: {reason})"
        ) from error
    if CONFIG_KEY in open_tensors(local).metadata:
        return local
    # The hub's cache keeps FILE in snapshots/COMMIT/.
    commit = local.parts[-1 - len(Path(file).parts)][:12]
    name = f"{repository.name.replace('/', '--')}-{commit}-{file.replace('/', '--')}.safetensors"
    target = weights_folder() / "hub" / name
    if not target.is_file():
        convert(local, target)
    return target


def _find_file(hub, repository: Repository) -> str:
    """The name of the weight file of a repository."""
    names = hub.HfApi().list_repo_files(repository.name, revision=repository.revision)
    if USUAL_NAME in names:
        return USUAL_NAME
    for suffix in WEIGHT_SUFFIXES:
        candidates = [name for name in names if name.endswith(suffix)]
        if len(candidates) == 1:
            return candidates[0]
        require(
            not candidates,
            f"{repository.name} holds {', '.join(candidates[:5])}: choose one of them with "
            f"hf://{repository.name}/FILE",
        )
    raise UserError(f"{repository.name} holds no weights ({', '.join(WEIGHT_SUFFIXES)})")


def upload(repository: str, files: Mapping[str, Path], private: bool) -> str:
    """Upload files by name to a repository, which is created if it is missing; its address."""
    hub = import_extra("huggingface_hub", "hub")
    api = hub.HfApi()
    try:
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        operations = []
        for name, path in files.items():
            local = str(local_copy(path))
            operations.append(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=local))
        # One commit, so that nobody sees weights without their card.
        api.create_commit(repository, operations, commit_message="Weights and card by urgt push")
    except Exception as error:  # of the network, of the hub, or of the user's rights
        reason = f"{type(error).__name__}: {one_line(str(error))[:150]}"
        raise UserError(
            f"cannot publish {repository} ({reason}). Is this machine logged in (hf auth login)?"
        ) from error
    return address
