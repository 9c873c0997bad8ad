"""The table of a study."""

import pytest
from helpers.studies import make_point, run_study

from urgt_jax.errors import UserError
from urgt_jax.scaling import points, study
from urgt_jax.scaling.study import COLUMNS, StudyTable


def test_run_resumes_where_it_stopped(tmp_path, capsys):
    asked = [make_point(patches=n) for n in (1, 4, 9)]
    table = StudyTable(tmp_path / "t.csv")
    worked = []

    def work(point):
        worked.append(point.patches)
        if point.patches == 4 and len(worked) == 2:
            raise UserError("too\nlarge")
        if point.patches == 9 and len(worked) == 3:
            raise KeyboardInterrupt
        return points.operations(point)

    with pytest.raises(KeyboardInterrupt):
        study.run(asked, table, work)
    assert table.rows()[asked[1]] == {"note": "too large"}
    study.run(asked, table, work)
    assert worked == [1, 4, 9, 4, 9]
    assert "skipped 1 of 3 points" in capsys.readouterr().out
    assert table.rows()[asked[2]] == pytest.approx(points.operations(asked[2]))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 4


def test_run_repeats_scores_over_another_number_of_scenes(tmp_path):
    asked = [make_point("quality")]
    table = StudyTable(tmp_path / "t.csv")
    worked = []

    def work(point):
        worked.append(scenes)
        return {"scenes": scenes}

    for scenes in (2, 2, 4):
        study.run(asked, table, work, scenes)
    assert worked == [2, 4]
    assert table.rows() == {asked[0]: {"scenes": 4}}


def test_run_repeats_known_points_if_asked_to(tmp_path):
    table = StudyTable(tmp_path / "t.csv")
    figures = iter(({"parameters": 1}, {"parameters": 2}))
    for _ in range(2):
        study.run([make_point()], table, lambda point: next(figures), again=True)
    assert table.rows() == {make_point(): {"parameters": 2}}


@pytest.mark.parametrize(
    "content,message",
    [(b"size,dtype\nlarge,float32\n", "its columns differ: *"), (b"\xff\xfe\x00", "cannot read"),
     (",".join(COLUMNS).encode() + b"\nflops,tiny\n", "line 2 is damaged"),
     (",".join(COLUMNS).encode() + b"\nflops,tiny,,four" + b"," * 40, "line 2 is damaged")],
)  # fmt: skip
def test_table_of_another_form_is_left_untouched(tmp_path, content, message):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message.rstrip(": *")):
        run_study("--what", "flops", "--sizes", "tiny", "--out", path)
    assert path.read_bytes() == content
