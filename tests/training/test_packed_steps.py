"""Training on packed rows: one compiled program, with the losses of the images alone."""

import jax
import jax.numpy as jnp
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
    message = "mesh.patch 4 does not go with data.batching packed.*--mesh"
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(config)
    mesh = sharding.make_mesh(with_changes(packed, {"mesh.data": 2}))
    assert mesh.shape["data"] == 2


def test_step_watch_names_the_image_that_spoils_a_packed_step_once(packed):
    batches = pipeline.Batches(packed)
    step = next(k for k in range(99) if len(set(gridmix.row_sides(packed, k, 0))) >= 3)
    sides = gridmix.row_sides(packed, step, 0)
    second_block = slice(sides[0] ** 2, sides[0] ** 2 + sides[1] ** 2)
    errors = np.zeros(32, np.float32)
    errors[second_block] = np.nan
    (image,) = {f"{index} ({name})" for index, name in batches.drawn_images(step)[second_block]}
    watch = StepWatch(packed, batches, skipped=0)
    watch.add(step, StepVerdict(np.False_, np.float32("nan"), errors))
    with pytest.raises(UserError) as error:
        watch.check()
    assert f"Images without a finite result: {image}. Skipped steps" in str(error.value)


@pytest.mark.slow
def test_packed_step_is_one_program_with_the_losses_of_its_images(packed):
    config = with_changes(packed, {"data.mix": (0.0, 1.0, 0.0, 0.0), "optim.accumulate": 2})
    mesh = sharding.make_mesh(config)
    state = initial_state(config, mesh)
    params = jax.device_get(state.params)
    run = train_step(config, mesh)

    rows = pipeline.Batches(config)[0]  # 2 rows of 4 images of 4 patches
    images = {}
    for name, x in rows.items():
        if name != "owner":
            images[name] = jnp.asarray(x.reshape(8, 4, *x.shape[2:]))
    counts = losses.valid_counts(config, images)

    def separately(params: dict, batch: dict) -> tuple[dict, jax.Array]:
        maps = apply(params, config.model, batch)
        terms = losses.compute_terms(config, maps, batch, counts)
        return terms, losses.image_errors(config, maps, batch)

    terms, errors = jax.jit(separately)(params, images)
    state, metrics, verdict = run(state, sharding.put_on_mesh(rows, mesh))
    for name, value in terms.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)
    patch_errors = np.asarray(verdict.image_errors).reshape(8, 4)
    assert (patch_errors.min(1) <= errors * 1.001).all()
    assert (errors <= patch_errors.max(1) * 1.001).all()

    compiled = run._cache_size()
    for step in (1, 2):  # blocks of other sides
        batch = pipeline.Batches(packed)[step]
        state, *_ = run(state, sharding.put_on_mesh(batch, mesh))
    assert run._cache_size() == compiled
