"""Fixtures of the tests of metrics."""

import pytest
from helpers import metric_maps


@pytest.fixture(scope="session")
def scene():
    """Ground truth, predicted metres and predicted normals."""
    return metric_maps.boxes_and_plane()
