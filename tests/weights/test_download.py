"""Published weights are downloaded, or the user learns which file to get from where."""

import builtins

import pytest
from helpers.command import call

from urgt_jax.commands.convert import main
from urgt_jax.errors import UserError
from urgt_jax.weights import download

HUB = "https://huggingface.co/Kingslanding/Any-Resolution-Any-Geometry/resolve/main/"


def test_fetch_without_a_network_says_which_file_to_download(tmp_path, monkeypatch, capsys):
    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(download, "download", offline)
    with pytest.raises(UserError) as caught:
        call(main, "--download", "urgt", tmp_path / "u.safetensors")
    message = str(caught.value)
    assert f"Download {HUB}ckpt_best.pth by other means and run: " in message
    assert "urgt convert ckpt_best.pth" in message and "no network" in message
    assert "licence: MIT" in capsys.readouterr().out


def test_fetch_without_huggingface_hub_says_what_to_install(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def import_without_hub(name, *arguments, **options):
        if name == "huggingface_hub":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_hub)
    with pytest.raises(UserError, match=r"pip install urgt-jax\[hub\]") as caught:
        download.fetch("urgt", tmp_path / "u.safetensors")
    assert f"{HUB}ckpt_best.pth" in str(caught.value)


def test_fetch_uses_a_file_that_is_already_there(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert download.fetch("vggt", tmp_path / "v.safetensors") == tmp_path / "model.safetensors"


def test_download_rejects_a_torch_target_before_it_downloads(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(UserError, match="only safetensors files are written"):
        call(main, "--download", "urgt", tmp_path / "u.pth")


def test_urls_of_dinov2():
    folder = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14"
    assert download.PUBLISHED["dinov2_s"].url == f"{folder}/dinov2_vits14_pretrain.pth"
    assert download.PUBLISHED["dinov2_s_reg"].url == f"{folder}/dinov2_vits14_reg4_pretrain.pth"
