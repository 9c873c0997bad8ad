"""Rotary position embedding: against the released code, and by its own rule."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity import assert_close, golden

from urgt_jax.models.rope import apply_rope, rotary_angles


def test_apply_rope_equals_the_released_code():
    want = golden("urgt_blocks")
    q = want["s4_nonsq/mid/rope_q_in_frame0"]
    positions = jnp.asarray(want["s4_nonsq/mid/pos"], jnp.float32)
    tokens_last = jnp.asarray(q)[:, None].swapaxes(-1, -2)
    rotated = apply_rope(tokens_last, rotary_angles(positions, q.shape[-1]))
    assert_close(rotated[:, 0].swapaxes(-1, -2), want["s4_nonsq/mid/rope_q_out_frame0"])


def test_apply_rope_makes_scores_depend_on_the_distance_of_tokens_only():
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.standard_normal((1, 1, 1, 16, 1), np.float32))
    k = jnp.asarray(rng.standard_normal((1, 1, 1, 16, 1), np.float32))

    def score(q_position, k_position):
        rotated_q = apply_rope(q, rotary_angles(jnp.array([[q_position]]), 16))
        rotated_k = apply_rope(k, rotary_angles(jnp.array([[k_position]]), 16))
        return float((rotated_q * rotated_k).sum())

    near = score([3.0, 5.0], [1.0, 2.0])
    far = score([103.0, 55.0], [101.0, 52.0])
    assert near == pytest.approx(far, rel=1e-3)
    assert near != pytest.approx(score([3.0, 5.0], [2.0, 1.0]), rel=1e-3)
