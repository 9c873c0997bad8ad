"""Configurations of the tests of the data pipeline."""

import pytest

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes


@pytest.fixture
def packed(micro) -> Config:
    """Two packed rows a step."""
    return with_changes(micro, {"data.batching": "packed", "data.batch": 2})
