"""Fields of the configuration on the command line."""

import re

import pytest

from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config import Config
from urgt_jax.errors import UserError


def test_override_sets_fields():
    config = override(Config(), ["--model.depth", "30", "--data.size", "64", "96"])
    assert config.model.depth == 30 and config.data.size == (64, 96)


@pytest.mark.parametrize("option", ["--model.no_cross_patch", "--model.no-cross-patch"])
def test_override_switches_a_boolean_off(option):
    assert not override(Config(), [option]).model.cross_patch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss.depth_error", "foo"], r"invalid choice 'foo' for argument '--loss.depth_error'. "
         r"Expected one of \('squared', 'relative'\)."),
        (["--model.depth", "many"], r"Error parsing --model.depth: invalid literal for int\(\) "
         "with base 10: 'many'"),
        (["--model.patch_size", "50"], "Missing value for argument '--model.patch_size'. "
         "Expected 2 values."),
        (["stray"], "Unrecognized options: stray"),
    ],
)  # fmt: skip
def test_override_reports_a_bad_value_in_one_plain_line(arguments, message):
    with pytest.raises(UserError) as caught:
        override(Config(), arguments)
    assert re.fullmatch(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("columns", ["80", "250"])
def test_help_shows_the_defaults_of_the_named_configuration(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    parser = FieldsParser(prog="urgt train")
    parser.add_argument("config")
    with pytest.raises(SystemExit):
        parser.parse_known_args(["tiny", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: urgt train" in text
    assert "length of the run (default: 600)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tiny", "--model.dept", "12"],
            r"unknown option --model\.dept; did you mean --model\.depth",
        ),
        (["tiny", "--workdri", "runs"], "unknown option --workdri; did you mean --workdir"),
        (["tiny"], "required: --workdir"),
        (["tiny", "--workdir", ""], "an argument is empty"),
        (["tiny", "--workdir", "gcs://bucket/run"], "gcs://bucket/run: gcs:// is unknown. Pass"),
        (["tiny", "--data.path=https://b/x"], "https://b/x: https:// is unknown"),
    ],
)
def test_parser_names_the_nearest_option_or_field(arguments, message):
    parser = FieldsParser(prog="urgt train")
    parser.add_argument("config")
    parser.add_argument("--workdir", required=True)
    with pytest.raises(UserError, match=message):
        parser.parse_known_args(arguments)
