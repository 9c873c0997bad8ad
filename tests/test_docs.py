"""The pages in docs/: their code runs, their links lead somewhere, and the site has all of them."""

import importlib
import re
import subprocess
import sys

import pytest
import yaml
from etils.epath import Path
from helpers.random_refiner import image_with_coarse_maps, random_params

import urgt_jax
from urgt_jax import config_files
from urgt_jax.commands.main import COMMANDS, load_command
from urgt_jax.commands.parser import Parser
from urgt_jax.weights.weight_file import save_weights

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ADDED_PAGES = ("index.md", "changelog.md", "contributing.md")  # of docs/hooks.py
PAGES = [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_code_of_the_api_page_runs_from_top_to_bottom(micro, tmp_path, monkeypatch, capsys):
    """With the smallest model and the smallest scenes in place of the page's."""
    pytest.importorskip("flatbuffers")
    changes = {"optim.steps": 2, "data.mix": (1.0, 0.0, 0.0, 0.0)}  # one program to compile
    short = config_files.with_changes(micro, changes)
    save_weights(tmp_path / "scenes", random_params(micro.model), micro)
    monkeypatch.setattr(config_files, "load_config", lambda name: short)
    monkeypatch.setattr(config_files, "with_changes", lambda config, changes: short)
    monkeypatch.chdir(tmp_path)
    image, depth, normal = image_with_coarse_maps((112, 168))
    names = {"image": image, "coarse_depth": depth, "coarse_normal": normal}
    text = (DOCS / "api.md").read_text()
    blocks = CODE.findall(text)
    assert len(blocks) == text.count("```python") == 10
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number} of api.md", "exec"), names)
    rows, columns = micro.model.tokens
    assert names["features"].shape == (1, 16, 4, rows, columns, 2 * micro.model.width)
    assert names["gradient"].shape == names["arrays"]["coarse_depth"].shape
    assert set(names["maps"]) == {"depth", "normal", "depth_confidence", "normal_confidence"}
    assert names["state"].step == 2 and "worst" in names["metrics"]
    assert isinstance(names["refiner"], urgt_jax.Refiner)
    assert "trained 2 steps: runs/mine/weights.safetensors" in capsys.readouterr().out


def nav_pages(entry) -> list[str]:
    """The pages in a part of the navigation of mkdocs.yml."""
    if isinstance(entry, str):
        return [entry]
    pages = []
    for part in entry.values() if isinstance(entry, dict) else entry:
        pages += nav_pages(part)
    return pages


def test_the_navigation_has_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(nav_pages(settings["nav"])) == sorted([*pages, *ADDED_PAGES])


def test_the_reference_has_every_public_name_and_only_names_that_exist():
    named = re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert len(named) == len(set(named))
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    assert {f"urgt_jax.{name}" for name in urgt_jax.__all__} <= set(named)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


class OptionsExist(Exception):
    """All options of a command line are known."""


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_options_that_a_page_names_exist(page, monkeypatch):
    def only_check(self, arguments=None, namespace=None):
        self.check_options(arguments)
        raise OptionsExist

    monkeypatch.setattr(Parser, "parse_known_args", only_check)
    text = page.read_text().replace("\\\n", " ")
    for name, words in re.findall(r"\burgt ([a-z]+)\b([^`\n|]*)", text):
        options = re.findall(r"(?<=\s)--[a-z][\w.-]*", words)
        if name in COMMANDS and options:
            with pytest.raises(OptionsExist):
                load_command(name)(options)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    reference = (tmp_path / "reference.html").read_text()
    for name in urgt_jax.__all__:
        assert f'id="urgt_jax.{name}"' in reference, name
