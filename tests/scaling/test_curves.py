"""Slopes and charts."""

import re

import numpy as np
import pytest

from urgt_jax.scaling import curves


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_slope_is_the_exponent_from_16_patches_on(power):
    line = [(n, 3.0 * n**power if n >= 16 else 1.0) for n in (1, 4, 16, 36, 64)]
    assert curves.slope(line) == pytest.approx(power)
    assert curves.slope(line[:3]) is None


def test_chart_draws_points_on_logarithmic_axes():
    curve = curves.Curve("one", [(1, 1), (10, 10), (100, 100)])
    svg = curves.draw_chart("a < b", "N", "GB", [curve])
    paths = re.findall(r'<path d="(M [\d. L\n]+)" clip-path="[^"]*" style="fill: none; [^>]*>', svg)
    (drawn,) = [path for path in paths if path.count("L") == 2]
    x, y = np.array(re.findall(r"([\d.]+) ([\d.]+)", drawn), float).T
    assert np.allclose(np.diff(x), x[1] - x[0], atol=0.2) and x[0] < x[1]
    assert np.allclose(np.diff(y), y[1] - y[0], atol=0.2) and y[0] > y[1]
    assert "a &lt; b" in svg and "a < b" not in svg


def test_chart_of_the_same_curves_has_the_same_bytes():
    curve = curves.Curve("one", [(1, 1), (10, 10)])
    first, second = (curves.draw_chart("title", "N", "GB", [curve]) for _ in range(2))
    assert first == second
