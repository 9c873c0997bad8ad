"""Fields of the configuration as command-line options."""

import contextlib
import difflib
import io
import re
import sys

import tyro

from urgt_jax.config import Config
from urgt_jax.config_files import field_names
from urgt_jax.errors import Parser, UserError


class FieldsParser(Parser):
    """A command line that takes fields of the configuration too, and lists them in its help."""

    def print_help(self, file=None) -> None:
        """Prints the options, then every field."""
        super().print_help(file)
        sys.stdout.flush()
        tyro.cli(Config, prog="any of these fields:", args=["--help"])


def override(config: Config, arguments: list[str]) -> Config:
    """The configuration with `--model.depth 12` and the like applied."""
    known = field_names()
    for argument in arguments:
        name = argument[2:].split("=")[0]
        plain = name.replace("-", "_").replace("no_", "")
        if argument.startswith("--") and plain not in known:
            near = difflib.get_close_matches(name, known, 1, 0.4)
            raise UserError(
                f"unknown option --{name}" + (f"; did you mean --{near[0]}?" if near else "")
            )
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            return tyro.cli(Config, default=config, args=arguments)
    except SystemExit as error:
        raise UserError(_one_line(told.getvalue())) from error


def _one_line(told: str) -> str:
    """The words of tyro's framed message."""
    text = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]", " ", told)
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"For full helptext.*|^ ?Parsing errors?( error)? ?", "", text).strip()
