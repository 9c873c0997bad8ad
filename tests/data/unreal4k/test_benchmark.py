"""The benchmark of tiles."""

from helpers.command import call

from urgt_jax.commands import prepare as prepare_command


def test_benchmark_prints_a_row_for_each_block_size(capsys):
    call(
        prepare_command.main,
        *("unreal4k-benchmark", "--frames", 2, "--size", 36, 64, "--repeat", 2),
    )
    lines = capsys.readouterr().out.splitlines()
    assert "as tiles" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "4"]
