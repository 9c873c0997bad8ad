"""The command line of `urgt plan`."""

import pytest

from urgt_jax.commands import plan
from urgt_jax.errors import UserError


@pytest.mark.parametrize(
    "options,message",
    [
        (["v9:2x2", "tiny"], "no TPU topology is called v9:2x2"),
        (["v5e", "tiny"], "name one like v5e:16x16"),
        (["v5e:2x2"], "required: CONFIG"),
        (["v5e:2x2", "tinny"], "did you mean tiny"),
    ],
)
def test_plan_rejects_what_cannot_be_planned(options, message):
    with pytest.raises(UserError, match=message):
        plan.main(options)
