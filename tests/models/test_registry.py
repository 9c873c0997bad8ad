"""The registry of networks."""

import jax
import pytest

from urgt_jax.config import SIZES
from urgt_jax.models.registry import abstract_params


def test_abstract_params_of_the_paper_model_are_975_million():
    leaves = jax.tree.leaves(abstract_params(SIZES["large"]))
    assert sum(leaf.size for leaf in leaves) == pytest.approx(975e6, rel=2e-3)
