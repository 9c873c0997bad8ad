"""Training on packed rows: one compiled program, the losses of the images alone."""

import jax
import numpy as np
import pytest

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix, pipeline
from urgt_jax.errors import UserError
from urgt_jax.models.apply import apply
from urgt_jax.training import losses, sharding
from urgt_jax.training.loop import StepWatch
from urgt_jax.training.step import StepVerdict, initial_state, train_step


@pytest.fixture(scope="module")
def packed(micro) -> Config:
    """Two rows a step; one output is quicker to compile than two."""
    return with_changes(
        micro, {"data.batching": "packed", "data.batch": 2, "model.outputs": ("depth",)}
    )


def test_make_mesh_does_not_share_patches_of_packed_rows(packed):
    config = with_changes(packed, {"mesh.data": 1, "mesh.patch": 4})
    with pytest.raises(
        UserError, match="mesh.patch 4 does not go with data.batching packed.*--mesh"
    ):
        sharding.make_mesh(config)
    assert dict(sharding.make_mesh(with_changes(packed, {"mesh.data": 2})).shape)["data"] == 2


def test_step_watch_names_the_image_that_spoils_a_packed_step_once(packed):
    batches = pipeline.Batches(packed)
    k = next(k for k in range(99) if len(set(gridmix.row_sides(packed, k, 0))) >= 3)
    sides = gridmix.row_sides(packed, k, 0)
    far = np.zeros(32, np.float32)
    bad = slice(sides[0] ** 2, sides[0] ** 2 + sides[1] ** 2)  # the second block's patches
    far[bad] = np.nan
    (named,) = {f"{index} ({name})" for index, name in batches.drawn_images(k)[bad]}
    watch = StepWatch(packed, batches, skipped=0)
    watch.step(k, StepVerdict(np.False_, np.float32("nan"), far))
    with pytest.raises(UserError) as told:
        watch.read()
    assert f"without a finite result: {named}; steps left out" in str(told.value)


@pytest.mark.slow
def test_train_step_packed_is_one_program_with_the_loss_of_its_images(packed):
    config = with_changes(packed, {"data.mix": (0.0, 1.0, 0.0, 0.0), "optim.accumulate": 2})
    mesh, batches = sharding.make_mesh(config), pipeline.Batches(config)
    run, state = train_step(config, mesh), initial_state(config, mesh)
    together = batches[0]
    params = jax.device_get(state.params)
    counts = losses.valid_counts(config, together)
    apart = {n: x.reshape(8, 4, *x.shape[2:]) for n, x in together.items() if n != "owner"}

    def of_images(params, batch):
        maps = apply(params, config.model, batch)
        terms = losses.compute_terms(config, maps, batch, counts)
        return terms, losses.image_errors(config, maps, batch)

    terms, far = jax.jit(of_images)(params, apart)
    state, metrics, verdict = run(state, sharding.put_on_mesh(together, mesh))
    for name, value in terms.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)
    each = np.asarray(verdict.far).reshape(8, 4)
    assert (each.min(1) <= far * 1.001).all() and (far <= each.max(1) * 1.001).all()
    compiled = run._cache_size()
    for k in range(1, 3):  # whatever their blocks are
        batch = pipeline.Batches(packed)[k]
        state, *_ = run(state, sharding.put_on_mesh(batch, mesh))
    assert run._cache_size() == compiled
