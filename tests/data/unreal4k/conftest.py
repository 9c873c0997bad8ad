"""UnrealStereo4K in miniature, as published and as prepared."""

import pytest
from etils.epath import Path
from helpers import miniature_sets

from urgt_jax.data.unreal4k.prepare import prepare

SIZE = (36, 64)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return miniature_sets.unreal4k(Path(tmp_path_factory.mktemp("unreal4k")) / "source", SIZE)


@pytest.fixture(scope="session")
def prepared(source, tmp_path_factory):
    out = Path(tmp_path_factory.mktemp("prepared"))
    assert prepare(source, out) == {}
    return out
