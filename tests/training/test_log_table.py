"""The log's table on the terminal."""

from urgt_jax.training.log_table import COLUMNS, LogTable

VALUES = {
    "loss": 0.46234,
    "depth": 0.00361,
    "gradient": 0.0000123,
    "angular": 0.0551,
    "alignment": 0.1102,
    "grad_norm": 12.34,
    "patches_per_second": 97.63,
    "mfu": 0.4123,
    "memory_gb": 12.31,
    "waited": 0.021,
}


def test_log_table_has_one_heading_and_aligned_rows_of_at_most_100_letters():
    table = LogTable(40000)
    *legend, heading, first = table.lines(20, VALUES, 245)
    second = table.lines(40000, VALUES, 0)
    assert len(second) == 1
    assert len(heading) == len(first) == len(second[0]) <= 100
    assert max(len(line) for line in legend) <= 100 and all(line.isprintable() for line in legend)
    assert heading.split() == [column.heading for column in COLUMNS] + ["left"]
    assert first.split()[:4] == ["step", "20/40000", "0.462", "0.00361"]
    assert first.split()[-4:] == ["41%", "12.3", "2%", "4:05"]
    for column in COLUMNS:
        end = heading.index(column.heading) + len(column.heading)
        assert first[end - 1] != " " and first[end] == " "


def test_log_table_leaves_out_what_a_run_does_not_have():
    table = LogTable(600)
    values = {name: VALUES[name] for name in ("loss", "depth", "grad_norm", "waited")}
    heading = table.lines(20, values, 1)[-2]
    assert heading.split() == ["loss", "depth", "norm", "waited", "left"]
    # All steps since the last row were skipped.
    assert table.lines(40, {"waited": 0.5}, 1)[0].split() == "step 40/600 - - - 50% 0:01".split()


def test_log_table_gets_columns_that_the_first_row_lacks():
    table = LogTable(600)
    assert table.lines(20, {"waited": 0.5}, 1)[-2].split() == ["waited", "left"]
    heading, row = table.lines(40, {"loss": 0.5, "waited": 0.5}, 1)[-2:]
    assert heading.split() == ["loss", "waited", "left"]
    assert row.split() == ["step", "40/600", "0.5", "50%", "0:01"]
