"""Fixtures of the tests of evaluations."""

import pytest
from etils.epath import Path
from helpers import miniature_sets

SIZE = (40, 56)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of two images of 40 x 56 pixels with depth and intrinsics."""
    return miniature_sets.measured(Path(tmp_path_factory.mktemp("photos")), 2, SIZE)


@pytest.fixture
def maps(photos, tmp_path):
    """The ground truth of the photos as predictions."""
    return miniature_sets.perfect_predictions(photos, tmp_path / "maps")
