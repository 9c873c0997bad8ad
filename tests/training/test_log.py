"""metrics.jsonl: lines of a killed run are removed when it is resumed."""

import json

import pytest
from helpers.mutations import mutations

from urgt_jax.errors import UserError
from urgt_jax.training.log import MetricsLog


def test_metrics_log_removes_lines_after_the_step_of_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 0.5})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')  # killed while it wrote

    log = MetricsLog(tmp_path, 2)
    log.write(3, {"loss": 0.25})
    log.close()
    lines = [json.loads(line) for line in path.open()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[2]["loss"] == 0.25


def write_log(workdir, steps) -> list[bytes]:
    """The lines of a log of these steps."""
    log = MetricsLog(workdir, 0)
    for step in steps:
        log.write(step, {"loss": 0.5 + step})
    log.close()
    return (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damaged",
    [b'{"step": 2, "lo', b"\xff\xfe", b"[]", b'{"step": 2}', b'{"step": 2, "checksum": "0"}'],
)
def test_metrics_log_reports_damaged_lines_and_leaves_them_out(tmp_path, capsys, damaged):
    lines = write_log(tmp_path, [1, 2, 3, 4])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines[0] + damaged + b"\n" + lines[2] + lines[3])
    MetricsLog(tmp_path, 3, logged=3).close()
    assert [json.loads(line)["step"] for line in path.open()] == [1, 3]
    assert "metrics.jsonl: damaged lines (2) were removed." in capsys.readouterr().out
    MetricsLog(tmp_path, 3, logged=3).close()  # numbered and sealed anew
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("changed", [{1}, {1, 2, 3}, {0}, {4}])
def test_metrics_log_reports_missing_lines(tmp_path, capsys, changed):
    lines = write_log(tmp_path, [1, 2, 3, 4, 5])
    kept = [line for i, line in enumerate(lines) if i not in changed]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(kept))
    MetricsLog(tmp_path, 5, logged=5).close()
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "metrics.jsonl: " in output and "missing" in output


def test_metrics_log_notices_every_change_below_the_step(tmp_path, capsys):
    content = b"".join(write_log(tmp_path, range(1, 21)))
    path = tmp_path / "metrics.jsonl"
    for what, damaged in mutations(content, 200):
        path.write_bytes(damaged)
        MetricsLog(tmp_path, 20, logged=20).close()
        output = capsys.readouterr().out
        assert output.count("\n") == 1 and "The run itself is not affected" in output, what


def test_metrics_log_of_another_process_writes_nothing(tmp_path):
    log = MetricsLog(tmp_path, 0, writes=False)
    log.write(1, {"loss": 0.5})
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_metrics_log_names_the_file_on_a_full_disk(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.file.close()
    log.file = open("/dev/full", "ab")
    with pytest.raises(UserError, match="cannot write .*metrics.jsonl: No space left on device"):
        log.write(1, {"loss": 0.5})
    log.close()
