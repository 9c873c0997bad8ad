"""`urgt push` uploads weights and a card in one commit."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from helpers.command import call

from urgt_jax.commands.push import main
from urgt_jax.errors import UserError
from urgt_jax.evaluation.results import write_results

SCORES = {
    "images": 32,
    "data": "scenes, split test, 224 x 392 pixels",
    "protocol": "disparity aligned",
    "resolution": "at the size of the ground truth",
    "patches": "4 x 4 patches, overlap 0.3",
    "candidates": ["coarse", "refined"],
    "coarse": {"depth": {"abs_rel": 0.0994}, "normal": {"mean": 12.68}},
    "refined": {"depth": {"abs_rel": 0.05712, "delta1": 0.958}, "normal": {"mean": 9.731}},
}


class FakeHub(ModuleType):
    """Stands for huggingface_hub, and keeps what would be uploaded."""

    def __init__(self):
        super().__init__("huggingface_hub")
        self.files = {}
        self.created = []

    def HfApi(self):  # noqa: N802
        return self

    def CommitOperationAdd(self, path_in_repo, path_or_fileobj):  # noqa: N802
        with open(path_or_fileobj, "rb") as file:
            return SimpleNamespace(name=path_in_repo, content=file.read())

    def create_repo(self, name, private, exist_ok):
        self.created.append((name, private))
        return f"https://hub/{name}"

    def create_commit(self, name, operations, commit_message):
        self.files |= {operation.name: operation.content for operation in operations}


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_push_uploads_weights_card_and_picture(hub, weights, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    whole = (weights / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").write_bytes(whole)
    write_results(run, SCORES)
    (run / "examples.png").write_bytes(b"picture")
    call(main, run, "me/small", "--licence", "apache-2.0", "--private")
    assert hub.created == [("me/small", True)]
    assert hub.files["weights.safetensors"] == whole
    assert hub.files["examples.png"] == b"picture"
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "urgt refine photo.jpg --weights hf://me/small" in card
    assert "| refined | 0.05712 | 0.958 | – | 9.731 |" in card
    assert "| coarse | 0.0994 | – | – | 12.68 |" in card
    assert "32 images of scenes, split test" in card and "(examples.png)" in card
    assert capsys.readouterr().out.endswith("published: https://hub/me/small\n")


def test_push_takes_the_scores_of_a_weight_file(hub, weights, tmp_path, capsys):
    file = tmp_path / "small.safetensors"
    file.write_bytes((weights / "weights.safetensors").read_bytes())
    folder = tmp_path / "small_scores"  # where `urgt eval --weights` writes
    folder.mkdir()
    write_results(folder, SCORES)
    call(main, file, "me/small", "--licence", "mit")
    assert "no metrics" not in capsys.readouterr().out
    assert "| refined | 0.05712 |" in hub.files["README.md"].decode()


def test_push_says_that_metrics_are_missing(hub, weights, capsys):
    call(main, weights / "weights.safetensors", "me/small", "--licence", "mit")
    assert "no metrics: run urgt eval first" in capsys.readouterr().out
    assert "Evaluation" not in hub.files["README.md"].decode()


def test_push_reports_what_the_hub_answers_in_one_line(hub, weights, monkeypatch):
    def forbidden(*_, **__):
        raise OSError("401 Client Error\nInvalid user token")

    monkeypatch.setattr(hub, "create_repo", forbidden)
    with pytest.raises(UserError, match=r"cannot publish me/small .*Invalid user token.*logged in"):
        call(main, weights, "me/small", "--licence", "mit")


@pytest.mark.parametrize("repository", ["small", "me/small/file", "me/small@main"])
def test_push_rejects_what_is_no_repository(hub, weights, repository):
    with pytest.raises(UserError, match="ORG/REPOSITORY"):
        call(main, weights, repository, "--licence", "mit")
    assert not hub.files
