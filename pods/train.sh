#!/usr/bin/env bash
# Train on this host, and start again after a crash. Run the same command on every host of a job:
#
#   WORKDIR=gs://BUCKET/runs/u4k pods/train.sh u4k --distributed
#
# WORKDIR  work directory of the run, which all hosts see
# PYTHON   Python to run (default: that of .venv, or python3)
# RETRIES  how often to start again (default: 100)
# PAUSE    seconds before that (default: 10)
#
# Exit status: 0 if the run is finished. 143 if Ctrl-C or SIGTERM (from a machine that is preempted,
# or from SLURM) ended it after a checkpoint: GKE then starts it again. 2 if an option or a path is
# wrong. 1 if there are no retries left.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
: "${WORKDIR:?set WORKDIR to the work directory of the run}"
[ -x "$here/.venv/bin/python" ] && default=$here/.venv/bin/python
python=${PYTHON:-${default:-python3}}
retries=${RETRIES:-100}

finished() {
  "$python" -c '
import sys
from etils.epath import Path
sys.exit(not (Path(sys.argv[1]) / "weights.safetensors").exists())' "$WORKDIR"
}

stopping=
child=
trap 'stopping=1; kill -TERM "$child" 2>/dev/null' TERM INT # a child in the background ignores INT

for ((try = 0; try <= retries; try++)); do
  "$python" -m urgt_jax train "$@" --workdir "$WORKDIR" &
  child=$!
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended `wait`; the run is still saving
    wait "$child"
    status=$?
  done
  # A run that a signal stopped, here or on another host, ends with status 0 too.
  if [ "$status" = 0 ] && finished; then
    exit 0
  fi
  if [ -n "$stopping" ]; then
    exit 143
  fi
  if [ "$status" = 2 ]; then
    exit 2
  fi
  echo "the run ended with status $status before its last step: starting again" >&2
  sleep "${PAUSE:-10}"
  if [ -n "$stopping" ]; then
    exit 143
  fi
done
echo "the run has not reached its last step after $((retries + 1)) starts" >&2
exit 1
