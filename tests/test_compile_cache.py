"""Compiled programs that are kept on disk."""

import os
import subprocess
import sys

import jax
import pytest

from urgt_jax import compile_cache

PROGRAM = """
import sys
from etils.epath import Path
from urgt_jax import compile_cache
compile_cache.start(sys.argv[1])
import jax, jax.numpy as jnp
timer = compile_cache.compile_timer()
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(timer.take())
"""


def run(choice) -> str:
    """What a new process says about its compilations, with --cache CHOICE."""
    environment = dict(os.environ)
    environment.pop(compile_cache.VARIABLE, None)
    command = [sys.executable, "-c", PROGRAM, str(choice)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_second_process_reads_the_programs_of_the_first(tmp_path):
    folder = tmp_path / "compiled"
    assert run(folder).startswith("compiled in") and "cache" not in run("off")
    assert folder.stat().mode & 0o77 == 0, "others may write programs there"
    again = run(folder)
    assert "programs from the cache" in again and not again.startswith("compiled in 0.0 s (0")


@pytest.fixture
def no_cache(monkeypatch):
    """JAX without a cache, as in a new process."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv(compile_cache.VARIABLE, raising=False)
    monkeypatch.setenv(compile_cache.SHORTEST_VARIABLE, "1")
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_start_keeps_the_programs_of_a_run_in_its_work_directory(no_cache, tmp_path):
    compile_cache.start(None, tmp_path / "run")
    assert os.environ[compile_cache.VARIABLE] == str(tmp_path / "run/compiled")
    assert not (tmp_path / "run").exists(), "the run has not claimed its folder yet"


def test_start_prefers_the_folder_that_the_user_set_for_jax(no_cache, monkeypatch, tmp_path):
    monkeypatch.setenv(compile_cache.VARIABLE, "elsewhere")
    compile_cache.start(None, tmp_path)
    assert os.environ[compile_cache.VARIABLE] == "elsewhere"
    compile_cache.start(str(tmp_path / "mine"))
    assert os.environ[compile_cache.VARIABLE] == str(tmp_path / "mine")
    compile_cache.start("off")
    assert compile_cache.VARIABLE not in os.environ


def test_start_goes_on_without_a_folder_it_cannot_write(no_cache, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    compile_cache.start(str(tmp_path / "file/compiled"))
    assert "compiled programs are not kept: " in capsys.readouterr().err
    assert compile_cache.VARIABLE not in os.environ


def test_remove_oldest_leaves_the_newest_files(tmp_path):
    for i, name in enumerate(["photo.jpg", "old-cache", "middle-cache", "new-cache"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (i, i))
    compile_cache.remove_oldest(tmp_path, 20)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["middle-cache", "new-cache", "photo.jpg"], "other files are not JAX's"
