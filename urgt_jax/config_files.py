"""Configurations as files: found by name, read, changed field by field, and written as JSON."""

import dataclasses
import difflib
import importlib.util
import json
from types import ModuleType
from typing import get_type_hints

from etils.epath import Path, PathLike

from urgt_jax.config import Config
from urgt_jax.errors import UserError, require
from urgt_jax.files import find_paths, parse_json
from urgt_jax.remote import local_copy, open_path

PACKAGE = Path(__file__).parent
# In a wheel the configurations lie in the package, in a checkout beside it.
PLACES = (PACKAGE / "configs", PACKAGE.parent / "configs")
SHIPPED = [folder for folder in PLACES if folder.is_dir()]


def load_config(name: PathLike) -> Config:
    """Reads the `config` that a Python file defines; a shipped one is found by its name alone."""
    config = getattr(load_module(name), "config", None)
    require(isinstance(config, Config), f"{name} defines no `config` of type urgt_jax.Config")
    return config


def load_module(name: PathLike) -> ModuleType:
    """Runs a configuration file; whatever goes wrong in it becomes one line."""
    path = find_config(name)
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", local_copy(path))
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: a configuration defines `config` in one")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return module


def find_config(name: PathLike) -> Path:
    """The file of a configuration, given as a path or as the name of a shipped one."""
    path = open_path(name)
    if path.is_file():
        return path
    # `tiny`, `ablations/joint`, and `configs/tiny.py` as typed in a checkout.
    inside = path if path.suffix == ".py" else Path(f"{path}.py")
    if inside.parts[0] == "configs":
        inside = Path(*inside.parts[1:])
    for folder in SHIPPED:
        if (folder / inside).is_file():
            return folder / inside
    beside = [str(file) for file in find_paths(path.parent, "*.py")]
    near = difflib.get_close_matches(str(name), [*shipped_configs(), *beside], 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"no configuration at {name}{hint}")


def find_config_folder(name: PathLike) -> Path:
    """A folder of configurations, given as a path or as the name of a shipped one."""
    path = Path(name)
    candidates = [path, *(folder / path.name for folder in SHIPPED)]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(f"no folder of configurations at {name}")


def shipped_configs() -> list[str]:
    """The names of the shipped configurations."""
    return [file.stem for folder in SHIPPED for file in find_paths(folder, "[!_]*.py")]


def field_names(kind: type = Config, prefix: str = "") -> list[str]:
    """The dotted names of all fields."""
    names = []
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            names += field_names(hint, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def with_changes(config: Config, changes: dict[str, object]) -> Config:
    """The configuration with fields replaced, given by dotted names such as model.depth.

    A UserError for an unknown name, or for values that do not go with each other.
    """
    by_section: dict = {}
    for name, value in changes.items():
        require(name in field_names(), f"no field is called {name}")
        *sections, field = name.split(".")
        group = by_section
        for section in sections:
            group = group.setdefault(section, {})
        group[field] = value
    return _replace_fields(config, by_section)


def _replace_fields(section, changes: dict):
    """Replaces all fields of a section at once: a section checks that they go together."""
    values = {}
    for name, value in changes.items():
        if isinstance(value, dict):
            value = _replace_fields(getattr(section, name), value)
        values[name] = value
    return dataclasses.replace(section, **values)


def command_line_options(changes: dict[str, object]) -> list[str]:
    """The same changes as they are written on the command line."""
    options = []
    for name, value in changes.items():
        if value is False:
            section, _, field = name.rpartition(".")
            options.append(f"--{section}.no_{field}")
        elif value is True:
            options.append(f"--{name}")
        elif isinstance(value, tuple):
            options += [f"--{name}", *(str(item) for item in value)]
        else:
            options += [f"--{name}", str(value)]
    return options


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """The values of nested dictionaries by their dotted names."""
    values = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            values |= flatten(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def to_json(config) -> str:
    """A configuration as JSON, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(config), indent=1)


def from_json(kind: type, text: str, where: str):
    """The configuration of a type that `to_json` wrote; `where` names the file in errors."""
    try:
        return _from_dict(kind, parse_json(text), where)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{where} holds no valid configuration: {error}") from error


def _from_dict(kind: type, values: dict, where: str):
    hints = get_type_hints(kind)
    fields = {}
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}: unknown field {name}{hint}")
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, where)
        elif isinstance(value, list):
            value = tuple(value)
        fields[name] = value
    return kind(**fields)
