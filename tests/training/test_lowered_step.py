"""The training step as it is compiled for a GPU: what must not be in it, without a GPU."""

import re
from types import SimpleNamespace

import pytest

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.models import attention, refiner
from urgt_jax.scaling.batch_shapes import abstract_batch
from urgt_jax.training import sharding
from urgt_jax.training.step import abstract_state, train_step


def lower_step(config: Config) -> str:
    """The step on blocks of 3 x 3 patches, lowered for CUDA."""
    step = train_step(config, sharding.make_mesh(config))
    traced = step.trace(abstract_state(config), abstract_batch(config, 3))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def chunked(micro, monkeypatch) -> Config:
    """A configuration of whose patches the DPT heads take two at a time, with cuDNN's attention."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    height, width = micro.model.patch_size
    monkeypatch.setattr(refiner, "HEAD_PIXELS", 4 * 2 * height * width)
    monkeypatch.setattr(attention, "_has_cudnn_attention", lambda: True)
    monkeypatch.setattr(attention, "MAX_DENSE_CUDNN", 0)
    version = SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr(fused, "cuda_versions", version)
    changes = {"model.remat": "attention", "model.dtype": "bfloat16-all", "data.batch": 1}
    train_step.cache_clear()  # the settings above are no part of its key
    yield with_changes(micro, changes)
    train_step.cache_clear()


def test_step_has_no_grouped_convolution(chunked):
    program = lower_step(chunked)
    groups = re.findall(r"(?:feature|batch)_group_count = (\d+)", program)
    assert len(groups) > 40 and set(groups) == {"1"}


def test_step_in_bfloat16_has_no_convolution_in_float32(chunked):
    types = re.findall(r"stablehlo\.convolution.* -> tensor<[\dx]*x(\w+)>", lower_step(chunked))
    assert len(types) > 20 and set(types) == {"bf16"}


def test_step_in_bfloat16_multiplies_float32_matrices_only_in_last_layers(chunked):
    products = re.findall(r"stablehlo\.dot_general.*: \((.*)\) ->", lower_step(chunked))
    wide = [shapes for shapes in products if "f32" in shapes]
    # The last layers read 32 channels. The position embedding is resampled from 3 to 2 rows.
    allowed = re.compile(r"x32xf32|<32x\dxf32|<3x2xf32|<2x3xf32")
    assert len(products) > 20
    assert not [shapes for shapes in wide if not allowed.search(shapes)]


def test_step_runs_the_forward_kernel_of_attention_once(chunked):
    calls = re.findall(r"custom_call @__cudnn\$fmhaSoftmax(Backward)?\(", lower_step(chunked))
    # In the encoder, within patches and across them.
    assert calls.count("") == calls.count("Backward") == 3
