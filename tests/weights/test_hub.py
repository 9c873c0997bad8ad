"""Weights without a path come from the cache, or from a hub on this machine."""

import os
import subprocess
import sys

import pytest
from etils.epath import Path
from helpers import tiny_prior_networks
from helpers.loopback_hub import TINY, LoopbackHub, official_file

from urgt_jax.errors import UserError
from urgt_jax.weights import hub
from urgt_jax.weights.download import PUBLISHED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the user."""
    monkeypatch.setenv("URGT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/weights").mkdir(parents=True)
    return tmp_path / "cache/weights"


def refuse(licences):
    raise UserError("not accepted: " + "; ".join(licences))


def agree(licences):
    """The user agrees."""


def test_best_name_prefers_large_weights_in_the_cache(cache):
    assert hub.best_name("depth_anything") == "depth_anything_s"
    (cache / "depth_anything_b.safetensors").touch()
    assert hub.best_name("depth_anything") == "depth_anything_b"
    (cache / PUBLISHED["depth_anything_l"].file).touch()
    assert hub.best_name("depth_anything") == "depth_anything_l"


def test_obtain_takes_what_is_in_the_cache_without_asking(cache):
    path = cache / "metric3d_s.safetensors"
    tiny_prior_networks.save_random(path, tiny_prior_networks.METRIC3D, 0)
    assert hub.obtain(["metric3d_s"], refuse) == {"metric3d_s": path}


def test_obtain_converts_a_file_that_was_put_there_by_hand(cache, tmp_path):
    content = official_file(tmp_path, TINY["depth_anything_s"])
    official = cache / "depth_anything_v2_vits.pth"
    official.write_bytes(content)
    [path] = hub.obtain(["depth_anything_s"], refuse).values()
    assert path == cache / "depth_anything_s.safetensors" and path.is_file()
    assert not official.exists()


def test_obtain_asks_once_and_names_the_licences(cache, monkeypatch):
    with pytest.raises(UserError, match="Metric3D/resolve/main/metric_depth.*licence: BSD-2-Cl"):
        hub.obtain(["metric3d_s"], refuse)

    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(hub, "download", offline)
    for accept in (agree, refuse):  # the second time nobody is asked
        with pytest.raises(UserError, match=r"the download failed \(.*\). Put into"):
            hub.obtain(["metric3d_s"], accept)


@pytest.mark.parametrize("content", [b"[", b"\xff", b'"metric3d_s"'])
def test_obtain_asks_again_if_the_list_of_accepted_licences_is_damaged(cache, content):
    (cache / "licences.json").write_bytes(content)
    with pytest.raises(UserError, match="not accepted: .*BSD-2-Cl"):
        hub.obtain(["metric3d_s"], refuse)


def test_obtain_says_in_one_line_what_to_do_without_a_network(cache, monkeypatch):
    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(hub, "download", offline)
    monkeypatch.setattr(hub, "weights_folder", lambda: cache)
    with pytest.raises(UserError) as caught:
        hub.obtain(["urgt", "depth_anything_s", "metric3d_s"], agree)
    message = str(caught.value)
    for name in ("urgt", "depth_anything_s", "metric3d_s"):
        assert f"{PUBLISHED[name].host}/{PUBLISHED[name].file}" in message
    assert str(cache) in message
    assert "--weights scenes works offline" in message
    assert len(message.replace(str(cache), "~/.cache/urgt/weights")) <= 340


@pytest.mark.parametrize(
    "address,expected",
    [
        ("hf://org/repo", ("org/repo", None, None)),
        ("hf:/org/repo", ("org/repo", None, None)),
        ("hf://org/re.po-1@v1.0", ("org/re.po-1", "v1.0", None)),
        ("hf://org/repo@main/deep/w.pth", ("org/repo", "main", "deep/w.pth")),
        ("hf://org/repo/w.pth", ("org/repo", None, "w.pth")),
    ],
)
def test_parse_repository(address, expected):
    assert hub.parse_repository(address) == expected


@pytest.mark.parametrize("address", ["hf://org", "hf://", "hf://org/repo@", "hf://a b/c"])
def test_parse_repository_rejects_other_forms(address):
    with pytest.raises(UserError, match="is not an address on the hub. Write hf://ORG/REPOSITORY"):
        hub.parse_repository(address)


# Run in a process of its own, since huggingface_hub reads its settings when it is imported.
FETCH = """
import sys
from urgt_jax.errors import UserError
from urgt_jax.weights.weight_file import locate_weights
for address in sys.argv[1:]:
    try:
        print(locate_weights(address))
    except UserError as error:
        print("error:", error)
"""


def test_locate_weights_fetches_repositories_of_a_hub(tmp_path):
    pytest.importorskip("huggingface_hub")
    official = official_file(tmp_path, TINY["depth_anything_s"])
    ours = (tmp_path / "ours.safetensors").read_bytes()
    files = {
        "me/ours": {"README.md": b"# x", "weights.safetensors": ours},
        "me/official": {"model.pth": official},
        "me/two": {"a.pth": official, "b.pth": official},
        "me/deep": {"depth/model.pth": official, "model.pth": official},
        "me/none": {"README.md": b"# x"},
    }
    server = LoopbackHub(files)
    names = ["me/ours", "me/official", "me/two", "me/none", "me/ours@main", "me/missing"]
    names += ["me/deep/model.pth", "me/deep/depth/model.pth"]
    addresses = [f"hf://{name}" for name in names]
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "URGT_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-c", FETCH, *addresses]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    server.close()
    lines = [line for line in done.stdout.splitlines() if line.startswith(("/", "error"))]
    assert len(lines) == 8, done.stdout + done.stderr
    assert lines[0].startswith("/"), lines[0]
    assert Path(lines[0]).read_bytes() == ours
    assert lines[1].startswith(str(tmp_path / "cache/weights/hub/me--official-0123456789ab-model"))
    assert "me/two holds a.pth, b.pth: choose one of them with hf://me/two/FILE" in lines[2]
    assert "me/none holds no weights" in lines[3]
    assert lines[4] == lines[0]
    assert lines[5].startswith("error: hf://me/missing cannot be downloaded (RepositoryNotFound")
    # Files of one name have weight files of their own.
    assert lines[6].endswith("me--deep-0123456789ab-model.pth.safetensors")
    assert lines[7].endswith("me--deep-0123456789ab-depth--model.pth.safetensors")
