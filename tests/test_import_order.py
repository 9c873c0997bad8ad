"""Imports between folders only go downwards in the README's table."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "urgt_jax"
TABLE_HEAD = "| Folder of `urgt_jax/` |"
NO_CODE = {"shipped", "configs"}


def readme_rows() -> list[list[str]]:
    """The folders of each row of the README's table, from the top."""
    lines = (ROOT / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(TABLE_HEAD))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(re.findall(r"`(\w+)/`", line.split("|")[1]))
    return rows


LEVEL = {folder: level for level, row in enumerate(readme_rows()) for folder in row}


def imported_folders(path: Path) -> set[str]:
    """The folders of the package that a file imports from."""
    folders = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "urgt_jax":
                names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
                folders |= set(names) & set(LEVEL)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                folders |= set(alias.name.split(".")[1:2]) & set(LEVEL)
    return folders


def test_readme_lists_every_folder():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders - NO_CODE == set(LEVEL)


@pytest.mark.parametrize("folder", sorted(LEVEL))
def test_imports_go_downwards_in_the_readme(folder):
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        wrong = [
            other
            for other in imported_folders(path)
            if other != folder and LEVEL[other] <= LEVEL[folder]
        ]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(wrong)}"


def test_files_at_the_top_import_no_folder():
    for path in PACKAGE.glob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            assert not imported_folders(path), path.name


def test_data_priors_and_weights_import_neither_training_nor_inference():
    for folder in ("weights", "data/priors"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not imported_folders(path) & {"training", "inference"}, path
