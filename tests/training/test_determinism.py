"""Bits that are the same in every run."""

import os
from types import SimpleNamespace

import pytest

from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.training import determinism
from urgt_jax.training.loop import TrainingRun

H100 = SimpleNamespace(platform="gpu", compute_capability="9.0", device_kind="NVIDIA H100")
B200 = SimpleNamespace(platform="gpu", compute_capability="10.0", device_kind="NVIDIA B200")
CPU = SimpleNamespace(platform="cpu")


def test_request_adds_the_flag_once_to_those_of_the_user(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    for _ in range(2):
        determinism.request()
    assert os.environ["XLA_FLAGS"] == f"--xla_backend_optimization_level=0 {determinism.FLAG}"


def test_check_refuses_a_gpu_without_the_flag_and_one_whose_attention_cannot(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    determinism.check(CPU, uses_cudnn=True)
    with pytest.raises(UserError, match="needs XLA_FLAGS=--xla_gpu_deterministic_ops=true before"):
        determinism.check(H100, uses_cudnn=False)
    determinism.request()
    determinism.check(H100, uses_cudnn=True)
    determinism.check(B200, uses_cudnn=False)
    with pytest.raises(UserError, match="NVIDIA B200: use --model.dtype tensorfloat32"):
        determinism.check(B200, uses_cudnn=True)


def test_training_checks_the_promise_before_it_writes_anything(depth_only, tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("not here")

    monkeypatch.setattr(determinism, "check", refuse)
    config = with_changes(depth_only, {"train.deterministic": True})
    with pytest.raises(UserError, match="not here"):
        TrainingRun(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
