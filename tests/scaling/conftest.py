"""A size that is quick to compile, for all tests of scaling."""

import pytest

from urgt_jax.config import SIZES, Model


@pytest.fixture(scope="package", autouse=True)
def small(micro) -> Model:
    """The size "micro", known to `--sizes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "micro", micro.model)
        yield micro.model
