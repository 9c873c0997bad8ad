"""Configurations as files: found by name, read, changed field by field, and written as JSON."""

import dataclasses
import difflib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

from urgt_jax.config import Config
from urgt_jax.errors import UserError, require


def load_config(path: str | Path) -> Config:
    """The `config` that a Python file defines."""
    config = getattr(load_module(path), "config", None)
    require(isinstance(config, Config), f"{path} defines no `config` of type urgt_jax Config")
    return config


def load_module(path: str | Path) -> ModuleType:
    """What a Python file defines; whatever goes wrong in it is told in one line."""
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.py")), 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no configuration at {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: a configuration defines `config` in one")
    found = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(found)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return found


def field_names(kind: type = Config, prefix: str = "") -> list[str]:
    """The dotted names of all fields."""
    found = []
    for name, hint in get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        found += field_names(hint, f"{prefix}{name}.") if nested else [prefix + name]
    return found


def with_changes(config: Config, changes: dict[str, object]) -> Config:
    """The configuration with fields replaced by their dotted names, such as model.depth."""
    for name, value in changes.items():
        require(name in field_names(), f"no field is called {name}")
        *owners, last = name.split(".")
        config = _replaced(config, owners, last, value)
    return config


def _replaced(node, owners: list[str], name: str, value):
    if not owners:
        return dataclasses.replace(node, **{name: value})
    inner = _replaced(getattr(node, owners[0]), owners[1:], name, value)
    return dataclasses.replace(node, **{owners[0]: inner})


def command_line_options(changes: dict[str, object]) -> list[str]:
    """The same changes as they are written on the command line."""
    found = []
    for name, value in changes.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--{'.'.join(_no(name))}")
        else:
            many = value if isinstance(value, tuple) else (value,)
            found += [f"--{name}", *map(str, many)]
    return found


def _no(name: str) -> list[str]:
    *owners, last = name.split(".")
    return [*owners, f"no-{last}"]


def data_options(told: list[str] | None) -> list[str]:
    """`--data SOURCE [PATH]` as fields."""
    if not told:
        return []
    require(len(told) <= 2, f"--data takes a source and a folder, not {len(told)} words")
    return ["--data.source", told[0], "--data.path", *(told[1:] or [""])]


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """The values of nested dictionaries by their dotted names."""
    found = {}
    for name, x in tree.items():
        found |= flatten(x, f"{prefix}{name}.") if isinstance(x, dict) else {prefix + name: x}
    return found


def to_json(config) -> str:
    """A dataclass as JSON, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(config), indent=1)


def from_json(kind: type, text: str, where: str):
    """The dataclass that `to_json` wrote; `where` names the file in an error."""
    try:
        return _build(kind, json.loads(text), where)
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise UserError(f"{where} holds no valid configuration: {error}") from error


def _build(kind: type, values: dict, where: str):
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1, 0.4)
            raise UserError(f"{where}: unknown field {name}, not {near[0] if near else 'a field'}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _build(hints[name], value, where)
        if hints[name] == tuple[float, float] and isinstance(value, int | float):
            value = [value, value]  # as files of before ranges have it
        made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)
