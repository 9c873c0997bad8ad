"""metrics.jsonl: lines of a killed run are removed when it is resumed."""

import json

import pytest

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


@pytest.mark.parametrize("damaged", [b'{"step": 2, "lo', b"\xff\xfe", b"[]", b'{"step": "x"}'])
def test_metrics_log_reports_damaged_lines_and_leaves_them_out(tmp_path, capsys, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n{"step": 4}\n')
    MetricsLog(tmp_path, 3).close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert "metrics.jsonl: removed damaged lines (2)." in capsys.readouterr().out


def test_metrics_log_of_another_process_writes_nothing(tmp_path):
    log = MetricsLog(tmp_path, 0, writes=False)
    log.write(1, {"loss": 0.5})
    log.close()
    assert list(tmp_path.iterdir()) == []
