"""A fast slice of the hard checks: `make test-hard` runs all of them."""

import subprocess
import sys

import pytest
from etils.epath import Path

from tests.hard import damage

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> list[damage.Kind]:
    return damage.kinds(Path(tmp_path_factory.mktemp("kinds")))


def test_changed_files_are_noticed(kinds):
    for kind in kinds:
        outcomes, problems = damage.try_kind(kind, count=8, seed=1)
        assert problems == []
        assert outcomes.total() > 0


def test_silent_changes_and_tracebacks_would_be_found(kinds, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    silent = damage.Kind("silent", path, path.read_bytes)
    assert damage.try_kind(silent, 5, 0)[0]["silent"] == 5
    trace = damage.Kind("trace", path, lambda: 1 / (path.read_bytes() == b"0123456789"))
    assert damage.try_kind(trace, 5, 0)[0]["traceback"] == 5


HOSTILE = """
import sys
from etils.epath import Path
from tests.hard import hostile
folder = Path(sys.argv[1])
by_reader = {}
for case in hostile.cases(folder, bombs=False):
    by_reader.setdefault((case.file, case.read), case)
problems = [hostile.try_case(case, folder) for case in by_reader.values()]
assert not any(problems), problems
path = folder / hostile.CANARY
run = hostile.Case("code", "a", b"", lambda _: path.write_text(""))
assert hostile.try_case(run, folder) == "code was run"
print(len(problems))
"""


def test_hostile_files_of_every_kind_do_no_harm(tmp_path):
    # In a process of its own, which forks: JAX has started no threads there.
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, 'tests')" + HOSTILE, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
