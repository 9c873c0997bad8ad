"""The command line of `urgt scale`."""

import pytest
from helpers.studies import run_study

from urgt_jax.commands import scale
from urgt_jax.errors import UserError
from urgt_jax.scaling import page


@pytest.mark.parametrize(
    "options,message",
    [(["--patches", "0"], "at least one"), (["--sizes", "huge"], "invalid choice"),
     (["--repeat", "0"], "at least one pass"), (["--what", "quality"], "needs --weights"),
     (["--what", "speed"], "invalid choice"), (["--mesh", "8"], "give patch=K"),
     (["--limit", "0"], "above 0 seconds"), (["--scenes", "0"], "at least one"),
     (["--limits", "3"], "--limits; did you mean --limit"), (["--out", "a"], "--out a: .* in .csv"),
     (["--report", "a.html"], "--report a.html: .* in .md"),
     (["--train", "--remat", "blocks", "--mesh", "patch=2"],
      "--mesh --remat cannot be combined with --train"),
     (["--model.depth", "3"], "--model.depth 3: only with --train")],
)  # fmt: skip
def test_scale_rejects_what_cannot_be_measured(options, message):
    with pytest.raises(UserError, match=message):
        run_study(*options)


def test_scale_has_a_section_for_every_kind():
    assert set(page.SECTIONS) == set(page.ABOUT) == set(scale.KINDS)
