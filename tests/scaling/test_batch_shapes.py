"""Shapes and FLOPs of a batch without data."""

import pytest

from urgt_jax.config_files import with_changes
from urgt_jax.data.gridmix import block_side
from urgt_jax.data.pipeline import Batches
from urgt_jax.models import flops
from urgt_jax.scaling.batch_shapes import abstract_batch, needed_flops


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.outputs": ("depth",), "data.batching": "patches"},
        {"loss.normal_target": "exact"},
    ],
)
def test_abstract_batch_has_the_shapes_of_a_batch(micro, changes):
    config = with_changes(micro, changes)
    batches = Batches(config)
    step = next(step for step in range(20) if block_side(config, step) == 2)
    wanted = {name: (x.shape, x.dtype) for name, x in batches[step].items()}
    found = {name: (x.shape, x.dtype) for name, x in abstract_batch(config, 2).items()}
    assert found == wanted


def test_abstract_batch_has_the_shapes_of_packed_batches(micro):
    packed = with_changes(micro, {"data.batching": "packed", "data.batch": 2})
    expected = {name: (x.shape, x.dtype) for name, x in Batches(packed)[0].items()}
    shapes = {name: (x.shape, x.dtype) for name, x in abstract_batch(packed, 4).items()}
    assert shapes == expected


def test_needed_flops_of_packed_rows_are_those_of_their_mean_blocks(micro):
    packed = with_changes(micro, {"data.batching": "packed", "data.batch": 2})
    single = with_changes(packed, {"data.mix": (1.0, 0.0, 0.0, 0.0)})
    sixteen = with_changes(packed, {"data.mix": (0.0, 0.0, 0.0, 1.0)})
    most = needed_flops(sixteen, 4)
    assert needed_flops(single, 4) < needed_flops(packed, 4) < most
    assert most == 2 * flops.training(packed, 16).total
