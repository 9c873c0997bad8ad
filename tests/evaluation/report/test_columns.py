"""The table of scores for a terminal."""

import numpy as np
from helpers.report_layers import CANDIDATES, scores_of

from urgt_jax.evaluation import report


def test_table_shows_measured_scores_line_by_line_with_their_ratio():
    means = {
        "coarse": scores_of(0.2, delta1=0.5, see=np.nan),
        "refined": scores_of(0.1, delta1=0.75),
    }
    means["coarse"]["pooled"] = {"mean": 20.0}
    means["refined"]["pooled"] = {"mean": 15.0}
    lines = [line.split() for line in report.table(means, CANDIDATES).splitlines()]
    assert lines == [
        ["coarse", "refined", "ratio"],
        ["AbsRel", "↓", "0.2000", "0.1000", "0.50"],
        ["δ1", "↑", "0.5000", "0.7500", "1.50"],
        ["pooled", "mean", "°", "↓", "20.00", "15.00", "0.75"],
    ]


def test_table_shows_a_ratio_to_every_baseline_and_the_interval_of_the_last_candidate():
    means = {"coarse": scores_of(0.2), "smoothed": scores_of(0.4), "refined": scores_of(0.1)}
    means["intervals"] = {"refined": {"depth": {"abs_rel": [0.08, 0.12]}}}
    lines = report.table(means, ("coarse", "smoothed", "refined")).splitlines()
    assert "/ coarse / smoothed" in " ".join(lines[0].split())
    assert lines[0].endswith("95 % interval")
    assert lines[1].split()[5:] == ["0.50", "0.25", "0.0800", "to", "0.1200"]


def test_table_of_one_candidate_has_no_ratio():
    lines = report.table({"predicted": scores_of(0.2)}, ("predicted",)).splitlines()
    assert [line.split() for line in lines] == [["predicted"], ["AbsRel", "↓", "0.2000"]]


def test_table_shows_a_dash_for_a_missing_score():
    means = {"coarse": scores_of(np.nan), "refined": scores_of(0.1)}
    lines = report.table(means, CANDIDATES).splitlines()
    assert lines[1].split()[2:] == ["–", "0.1000", "–"]
