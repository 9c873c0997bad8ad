"""Dtypes of a model: which precision products get, and what weights are stored as."""

import re
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.random_refiner import image_with_coarse_maps

from urgt_jax.config import DTYPES, Config, Dtype
from urgt_jax.inference.refiner import Refiner
from urgt_jax.inference.stages import jit_stages
from urgt_jax.models.precision import PRECISIONS, cast_weights, in_precision
from urgt_jax.scaling.forward_benchmark import random_weights


def test_every_dtype_has_its_parts():
    assert set(get_args(Dtype)) == set(DTYPES)


@pytest.mark.parametrize("dtype,wanted", [("float32", "HIGHEST"), ("tensorfloat32", "HIGH")])
def test_in_precision_sets_that_of_all_products(dtype, wanted):
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    def gradient(x):
        return jax.grad(lambda x: jnp.dot(jnp.dot(x, x), x).sum())(x)

    program = jax.jit(in_precision(dtype, gradient)).lower(x).as_text()
    assert set(re.findall(r"precision = \[(\w+), \w+\]", program)) == {wanted}
    assert set(PRECISIONS) == {name for name in DTYPES if DTYPES[name].products == "float32"}


@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("bfloat16-all", marks=pytest.mark.slow)]
)
def test_cast_weights_saves_memory_and_keeps_every_bit_of_the_result(micro, dtype, monkeypatch):
    model = replace(micro.model, dtype=dtype)
    params = jax.device_get(random_weights(replace(model, dtype="float32")))
    cast = cast_weights(params, model)
    sizes = [sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (cast, params)]
    assert sizes[0] < 0.75 * sizes[1]
    inputs = image_with_coarse_maps((56, 84))
    config = Config(model=model)
    result = Refiner(params, config)(*inputs, grid=(2, 2))
    monkeypatch.setattr("urgt_jax.inference.refiner.cast_weights", lambda params, _: params)
    jit_stages.cache_clear()
    wanted = Refiner(params, config)(*inputs, grid=(2, 2))
    for ours, theirs in zip(result, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
