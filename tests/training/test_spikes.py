"""Spikes of the loss and the gradient norm, also over a resume."""

import numpy as np
import pytest

from urgt_jax.training.spikes import FEWEST, RATIO, WINDOW, SpikeDetector, steps_of_spikes


def _metrics(loss: float, grad_norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "grad_norm": grad_norm, "learning_rate": 0.1}


def _steps(count: int) -> list[dict[str, float]]:
    """Noisy metrics with a loss that falls, and a spike of each kind."""
    rng = np.random.default_rng(0)
    steps = []
    for i in range(count):
        noise = rng.lognormal(sigma=0.2, size=2)
        steps.append(_metrics(noise[0] / (1 + i / 50), noise[1]))
    steps[70]["loss"] *= 20
    steps[150]["grad_norm"] *= 20
    return steps


def _marks(detector: SpikeDetector, steps: list[dict[str, float]], start: int) -> dict:
    spikes = []
    for number, metrics in enumerate(steps, start):
        spikes += detector.add(number, metrics)
    return steps_of_spikes(spikes)


def test_spikes_of_loss_and_gradient_norm_are_marked():
    assert _marks(SpikeDetector(), _steps(200), 1) == {
        "loss_spikes": [71],
        "grad_norm_spikes": [151],
    }


@pytest.mark.parametrize("stop", [1, 60, 70, 71, 140])
def test_resumed_run_marks_the_same_steps(stop):
    steps = _steps(200)
    first = SpikeDetector()
    marks = _marks(first, steps[:stop], 1)
    resumed = SpikeDetector(first.recent)
    marks |= _marks(resumed, steps[stop:], stop + 1)
    undisturbed = SpikeDetector()
    assert marks == _marks(undisturbed, steps, 1)
    assert resumed.recent == undisturbed.recent and len(resumed.recent) == WINDOW


def test_a_spike_needs_enough_steps_before_it_and_a_distance_from_them():
    """The loss is 1 or 3 in turn: the median is 2, and its distance from every step 1."""
    before = [_metrics(1.0), _metrics(3.0)] * (FEWEST // 2)
    assert SpikeDetector(before[1:]).add(FEWEST, _metrics(100.0)) == []
    assert SpikeDetector(before).add(FEWEST + 1, _metrics(2 + RATIO)) == []
    (spike,) = SpikeDetector(before).add(FEWEST + 1, _metrics(2.1 + RATIO))
    assert str(spike) == "step 21: spike: loss 12.1, median of the steps before 2"


def test_a_negative_loss_has_spikes_too():
    before = [_metrics(-1.1), _metrics(-0.9)] * FEWEST
    (spike,) = SpikeDetector(before).add(2 * FEWEST + 1, _metrics(0.5))
    assert spike.name == "loss"
