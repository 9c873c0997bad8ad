"""Tiny prior networks, and a folder of maps that they made."""

import pytest
from etils.epath import Path
from helpers import tiny_prior_networks
from helpers.coarse_maps import run_priors


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weight files of both networks, by the option of `urgt priors` that takes them."""
    return tiny_prior_networks.save_both(Path(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="session")
def complete(weights, tmp_path_factory):
    """The output folder of a complete, undisturbed job with both networks."""
    out = Path(tmp_path_factory.mktemp("complete"))
    run_priors(weights, out)
    return out
