"""Profiles: the kernels that cost most."""

import jax
import jax.numpy as jnp
import pytest

from urgt_jax.scaling import profile


def test_costliest_finds_the_large_product(tmp_path, capsys):
    large = jnp.ones((1024, 1024))
    small = jnp.ones((8, 8))

    def run(large, small):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x @ x), large), jnp.cos(small)

    compiled = jax.jit(run).lower(large, small).compile()
    with profile.tracing(tmp_path / "step"):
        jax.block_until_ready(compiled(large, small))
    first, *others = profile.costliest(tmp_path / "step", 10)
    assert first.share > 0.5 and first.calls >= 3 and first.seconds > 1e-3
    assert first.share + sum(kernel.share for kernel in others) == pytest.approx(1, abs=0.05)
    assert not [kernel for kernel in (first, *others) if kernel.name.startswith("while")]
    profile.print_costliest(tmp_path, ("step",), count=1)
    assert first.name[:20] in capsys.readouterr().out


def test_tracing_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with profile.tracing(None):
        jnp.ones(2) + 1
    assert not list(tmp_path.iterdir())
