#!/usr/bin/env bash
# The dry run, on any machine: trains a tiny model with 2 and with 4 processes on loopback, as many
# hosts would with pods/train.sh. One process is killed on the way, and the run must end with the
# bits of an undisturbed one. Takes 20 CPU-minutes: about ten minutes on two cores.
#
#   pods/check.sh [options of urgt train]
#
# CHECK_WORKDIR  folder of the runs, or a path such as gs://BUCKET/check (default: a temporary one)
# PROCESSES      numbers of processes to try (default: "2 4")
# PYTHON         as for pods/train.sh
set -euo pipefail
cd "$(dirname "$0")/.."
workdir=${CHECK_WORKDIR:-$(mktemp -d)}
[ -x .venv/bin/python ] && default=$PWD/.venv/bin/python
export PYTHON=${PYTHON:-${default:-python3}} JAX_PLATFORMS=cpu PAUSE=1 RETRIES=3
export XLA_FLAGS=--xla_backend_optimization_level=1 # compiles faster
logs=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT # whose status would be that of the script

save_every=5
options=(tiny --optim.steps 40 --train.save_every "$save_every" --train.log_every 1 --mesh.fsdp 2)
options+=(--data.size 48 72 --data.scenes 6 --data.mix 1 0 0 0 --data.batching images --data.batch 4)
options+=(--model.encoder.width 16 --model.encoder.depth 1 --model.encoder.num_heads 2)
options+=(--model.encoder.pretrain_size 42 --model.patch_size 28 42 --model.num_heads 2)
options+=(--model.depth 1 --model.dpt_layers 0 0 0 0 --model.dpt_features 8)
options+=(--model.dpt_channels 8 8 8 8 --cache "$logs/compiled" "$@")

read_file() { # print a file of a run, which may be remote
  if [ -e "$1" ]; then
    cat "$1"
  else
    "$PYTHON" -c '
import sys
from etils.epath import Path
path = Path(sys.argv[1])
sys.stdout.buffer.write(path.read_bytes() if path.exists() else b"")' "$1"
  fi
}

start() { # the processes of a run: start RUN COUNT PORT; their numbers are in `pids`
  pids=()
  for ((i = 0; i < $2; i++)); do
    WORKDIR=$workdir/$1 pods/train.sh "${options[@]}" --coordinator "127.0.0.1:$3" \
      --processes "$2" --process "$i" >"$logs/$1.$i.log" 2>&1 &
    pids+=($!)
  done
}

finish() { # wait for all processes of a run
  for pid in "${pids[@]}"; do
    wait "$pid" || { tail -n 20 "$logs/$1".*.log >&2; echo "failed: $1" >&2; exit 1; }
  done
}

kill_one() { # once there is a checkpoint, kill the training process of the last train.sh
  until [ "$(read_file "$workdir/$1/metrics.jsonl" | wc -l)" -gt $((2 * save_every)) ]; do
    kill -0 "${pids[-1]}" 2>/dev/null || finish "$1"
    sleep 0.1
  done
  pkill -KILL -P "${pids[-1]}"
}

for count in ${PROCESSES:-2 4}; do
  port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  start "undisturbed$count" "$count" "$port"
  finish "undisturbed$count"
  start "killed$count" "$count" "$port"
  kill_one "killed$count"
  finish "killed$count"
  grep -q "resumes at step" "$logs/killed$count.0.log" || { echo "the killed run did not resume" >&2; exit 1; }
  for run in undisturbed killed; do
    read_file "$workdir/$run$count/weights.safetensors" >"$logs/$run$count"
  done
  cmp "$logs/undisturbed$count" "$logs/killed$count"
  echo "$count processes: killed and resumed with the same bits ($(wc -c <"$logs/killed$count") bytes of weights)"
done
