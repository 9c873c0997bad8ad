"""The scripts in pods/: what they run, when they start again, and the dry run of a pod."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
from etils.epath import Path
from helpers.command import config_file
from helpers.processes import start_python

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("pods/*.sh"), ROOT / "pods/slurm.sbatch"])
# In place of Python: ends training with the next status of a list, and writes the weights with 0.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then
  [ -e "$3/weights.safetensors" ]
  exit
fi
echo "$@" >>"$WORKDIR/calls"
status=$(head -1 "$WORKDIR/statuses")
sed -i 1d "$WORKDIR/statuses"
if [ "$status" = waits ]; then
  trap 'exit 0' TERM
  touch "$WORKDIR/waiting"
  while true; do sleep 0.05; done
fi
[ "$status" = finished ] && touch "$WORKDIR/weights.safetensors" && exit 0
exit "$status"
"""


def _start_training(folder: Path, statuses: list[str], **settings: str) -> subprocess.Popen:
    """pods/train.sh with a program in place of Python that ends with these statuses in turn."""
    python = folder / "python"
    python.write_text(PYTHON)
    os.chmod(python, stat.S_IRWXU)
    (folder / "statuses").write_text("\n".join(statuses) + "\n")
    settings = {"WORKDIR": str(folder), "PYTHON": str(python), "PAUSE": "0"} | settings
    command = [ROOT / "pods/train.sh", "tiny", "--data.batch", "2"]
    return subprocess.Popen(
        command,
        env=os.environ | settings,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: a shell cannot trap a signal that was ignored when it started.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_error_of_syntax(script):
    checks = [["bash", "-n", script]]
    if shutil.which("shellcheck"):
        checks.append(["shellcheck", script])
    for check in checks:
        subprocess.run(check, check=True)


@pytest.mark.parametrize(
    "statuses,expected,calls",
    [
        (["finished"], 0, 1),
        (["3", "137", "finished"], 0, 3),  # another process has died; killed
        (["0", "finished"], 0, 2),  # stopped by the preemption of another host
        (["2", "finished"], 2, 1),  # a wrong option
        (["1", "1", "1", "1"], 1, 3),
    ],
)
def test_train_starts_again_until_the_run_is_finished(tmp_path, statuses, expected, calls):
    process = _start_training(Path(tmp_path), statuses, RETRIES="2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == expected, errors
    assert (
        _calls(tmp_path) == [f"-m urgt_jax train tiny --data.batch 2 --workdir {tmp_path}"] * calls
    )
    assert errors.count("starting again") == (calls if expected == 1 else calls - 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_train_ends_with_143_when_it_is_stopped(tmp_path, number):
    process = _start_training(Path(tmp_path), ["waits", "finished"])
    while not (tmp_path / "waiting").exists():
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 143 and len(_calls(tmp_path)) == 1


def _dry_run(how: str, *options: str, **settings: str) -> list[str]:
    """The commands that pods/run.sh would run."""
    settings = {"DRY_RUN": "1", "WORKDIR": "gs://bucket/run", "PAUSE": "0"} | settings
    result = subprocess.run(
        [ROOT / "pods/run.sh", how, *options],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout.splitlines()


def test_run_asks_for_a_queued_resource_and_trains_on_every_slice():
    lines = _dry_run("queued", "u4k", "--data.batch", "128", SLICES="2", TYPE="v5litepod-256")
    assert lines[0].startswith("gcloud compute tpus queued-resources create urgt --zone ")
    for words in ("--accelerator-type v5litepod-256", "--node-count 2", "--spot"):
        assert words in lines[0]
    trainings = [line for line in lines if "pods/train.sh u4k --data.batch 128 --distr" in line]
    assert [line.split("ssh ")[1].split()[0] for line in trainings] == ["urgt-0", "urgt-1"]
    assert all("--worker all" in line and "pods/setup.sh tpu" in line for line in trainings)
    assert "queued-resources delete urgt" in lines[-1]
    assert "--node-id urgt" in _dry_run("queued", "u4k", SPOT="")[0]


# In place of gcloud: prints the next of a list of states, and fails to copy when the list says so.
GCLOUD = """#!/usr/bin/env bash
cd "$(dirname "$0")"
echo "$@" >>calls
case "$*" in
*describe*)
  state=$(head -1 states)
  sed -i 1d states
  [ "$state" != NONE ] && echo "$state"
  ;;
*create*) exit "$(cat create_status)" ;;
*" scp "*)
  status=$(head -1 copies)
  sed -i 1d copies
  exit "$status"
  ;;
esac
"""


@pytest.mark.parametrize(
    "states,copies,create,expected",
    [
        ("ACTIVE", "0", 0, 0),
        # Preempted while it installs, deleted, and asked for again.
        ("ACTIVE SUSPENDED SUSPENDED NONE ACTIVE", "1 0", 0, 0),
        ("ACTIVE ACTIVE", "1", 0, 1),  # it cannot be installed
        ("NONE ACTIVE ACTIVE", "0", 1, 0),  # only the question for the state had failed
        ("NONE NONE", "", 1, 1),  # no such quota
    ],
)
def test_run_asks_again_after_a_preemption_and_ends_after_an_error(
    tmp_path, states, copies, create, expected
):
    for name, text in (("gcloud", GCLOUD), ("git", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        os.chmod(tmp_path / name, stat.S_IRWXU)
    (tmp_path / "states").write_text(states.replace(" ", "\n"))
    (tmp_path / "copies").write_text(copies.replace(" ", "\n"))
    (tmp_path / "create_status").write_text(str(create))
    path = f"{tmp_path}:{os.environ['PATH']}"
    settings = {"WORKDIR": "gs://bucket/run", "PAUSE": "0", "PATH": path}
    command = [ROOT / "pods/run.sh", "queued", "u4k"]
    result = subprocess.run(command, env=os.environ | settings, timeout=60, capture_output=True)
    assert result.returncode == expected, result.stderr
    assert not (tmp_path / "states").read_text().strip()
    if expected == 0:
        assert "queued-resources delete urgt" in _calls(tmp_path)[-1]


def test_run_submits_a_workload_that_gke_starts_again():
    lines = _dry_run("xpk", "u4k", CLUSTER="c", IMAGE="registry/urgt", TYPE="v6e-16")
    (workload,) = [line for line in lines if line.startswith("xpk workload create ")]
    for words in ("--cluster c", "--tpu-type v6e-16", "--docker-image registry/urgt", "--spot"):
        assert words in workload
    assert "--max-restarts" in workload and "pods/train.sh" in workload
    assert lines[0].startswith("docker build -f pods/Dockerfile --target tpu ")


def test_run_rejects_what_it_does_not_know():
    with pytest.raises(subprocess.CalledProcessError) as error:
        _dry_run("boat")
    assert error.value.returncode == 2 and error.value.stderr == "say queued or xpk, not boat\n"


@pytest.mark.slow
def test_gpu_memory_prints_what_a_step_needs(micro, tmp_path):
    """On a CPU, whose compiler accounts for memory too."""
    output = start_python(
        "-m", "pods.gpu_memory", config_file(micro, Path(tmp_path))
    ).communicate()[0]
    numbers = re.search(r"state and batch ([\d.]+) GiB, work ([\d.]+) GiB, together", output)
    assert numbers and 0 <= float(numbers[1]) < float(numbers[2]) < 1, output


@pytest.mark.slow
@pytest.mark.parametrize("count", ["2", "4"])
def test_check_kills_a_process_and_gets_the_same_bits(tmp_path, count):
    settings = {"PROCESSES": count, "CHECK_WORKDIR": str(tmp_path), "PYTHON": sys.executable}
    result = subprocess.run(
        [ROOT / "pods/check.sh"], env=os.environ | settings, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"{count} processes: killed and resumed with the same bits" in result.stdout
