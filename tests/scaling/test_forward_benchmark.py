"""Time and memory of a forward pass."""

import jax
import numpy as np
import pytest

from urgt_jax.inference import offload
from urgt_jax.models.registry import abstract_params
from urgt_jax.scaling import forward_benchmark


@pytest.fixture(scope="module")
def cost(small):
    return forward_benchmark.measure("micro", 2, "float32", 1, 1, None)


def test_measure_counts_the_parts_of_a_pass(small, cost):
    parts = cost.encode_cpu_seconds, cost.attend_cpu_seconds, cost.heads_cpu_seconds
    assert min(parts) > 0 and sum(parts) <= cost.cpu_seconds * 1.01
    assert cost.compile_seconds > 0 and 0.1 < cost.peak_gb < 24
    assert cost.tokens == 2 * (5 + 2 * 3)
    shapes = jax.tree.leaves(abstract_params(small))
    assert cost.parameters == sum(int(np.prod(x.shape)) for x in shapes)


def test_measure_never_streams_even_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(offload, "patches_that_fit", lambda *_: 1)
    assert forward_benchmark.measure("micro", 2, "float32", 1, 1, None).attend_cpu_seconds > 0


@pytest.mark.parametrize("patches,grid", [(1, (1, 1)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7))])
def test_squarest_grid(patches, grid):
    assert forward_benchmark.squarest_grid(patches) == grid
