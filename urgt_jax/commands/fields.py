"""Fields of the configuration as command-line options."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

import tyro

from urgt_jax.commands.parser import Parser
from urgt_jax.config import Config
from urgt_jax.config_files import field_names, load_config
from urgt_jax.data.sets import DATA_SETS, find_data_set
from urgt_jax.errors import UserError, require

# A parser that reads comments would parse the source of config.py at every call; only --help does.
PARSED_CONFIG = tyro.conf.HelptextFromCommentsOff[Config]
FRAME = "|+-╭╮╰╯│─ "  # what tyro draws around its messages


class FieldsParser(Parser):
    """A command line that also takes fields of the configuration, and lists them in its help."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        self.arguments = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def accepts(self, option: str) -> bool:
        """Whether this is an option of the command or a field of the configuration."""
        return is_field(option) or super().accepts(option)

    def option_names(self) -> list[str]:
        """The options of the command, then all fields."""
        return super().option_names() + [f"--{name}" for name in field_names()]

    def print_help(self, file: TextIO | None = None) -> None:
        """Prints the options, then every field with its default in the configuration named."""
        super().print_help(file)
        print("\n" + fields_help(named_config(self.arguments)), file=file)
        print(f"data.source is scenes, or one of {', '.join(DATA_SETS)}", file=file)


def named_config(arguments: Sequence[str]) -> Config:
    """The first configuration that the arguments name, or the default one."""
    for argument in arguments:
        if not argument.startswith("-"):
            with contextlib.suppress(UserError):
                return load_config(argument)
    return Config()


def fields_help(config: Config) -> str:
    """A description of every field, with its value in this configuration as the default."""
    output = io.StringIO()
    width = os.environ.get("COLUMNS")
    # On a wide terminal tyro would set its boxes side by side.
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            tyro.cli(Config, default=config, args=["--help"], use_underscores=True)
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    # The first lines repeat the usage, and the first options are those of every help.
    lines = output.getvalue().splitlines()
    texts = [line.strip(FRAME) for line in lines]
    start = texts.index("options")
    own = texts.index("h, --help")
    return "\n".join(["fields of the configuration", *lines[start + 1 : own], *lines[own + 2 :]])


def override(config: Config, arguments: Sequence[str]) -> Config:
    """The configuration with options such as `--model.depth 12` applied."""
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(messages):
            config = tyro.cli(PARSED_CONFIG, default=config, args=arguments, use_underscores=True)
    except SystemExit as error:
        raise UserError(message_text(messages.getvalue())) from error
    if config.data.source != "scenes":
        find_data_set(config.data.source)  # fails at once if the name is mistyped
    return config


def is_field(option: str) -> bool:
    """Whether the option is a field; a Boolean one may be switched off by `no_` before its name."""
    name = option.removeprefix("--").replace("-", "_")
    section, dot, field = name.rpartition(".")
    return name in field_names() or section + dot + field.removeprefix("no_") in field_names()


def message_text(output: str) -> str:
    """The text inside tyro's framed message, without its title and its hints at the help."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    texts = [line.strip(FRAME) for line in lines[1:]]
    texts = [text for text in texts if text]
    for i, text in enumerate(texts):
        if text.startswith(("For full helptext", "Argument helptext")):
            texts = texts[:i]
            break
    return " ".join(texts)


def data_options(words: Sequence[str] | None) -> list[str]:
    """The option `--data SOURCE [PATH]` as fields."""
    if not words:
        return []
    require(len(words) <= 2, f"--data takes a source and a folder, not {len(words)} words")
    path = words[1] if len(words) == 2 else ""
    return ["--data.source", words[0], "--data.path", path]
