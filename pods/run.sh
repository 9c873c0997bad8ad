#!/usr/bin/env bash
# Train on Cloud TPUs, started from a machine of your own:
#
#   WORKDIR=gs://BUCKET/runs/u4k pods/run.sh queued u4k [options of urgt train]
#   WORKDIR=gs://BUCKET/runs/u4k pods/run.sh xpk u4k [options of urgt train]
#
# queued  a queued resource of the Cloud TPU API (TPUs up to v6e). If it is preempted, it is asked for
#         again and the run resumes. The same command also follows a run that it has lost sight of.
# xpk     a workload on a GKE cluster that XPK has made (all TPUs). GKE starts it again.
#
# WORKDIR  work directory of the run, in a bucket
# NAME     name of the run (default: urgt)
# TYPE     type of a slice (default: v5litepod-32)
# SLICES   number of slices (default: 1)
# ZONE     zone (default: us-central1-a)
# SPOT     kind of capacity: --spot (default), --reserved, or empty for on demand
# RUNTIME  queued: image of the machines (default: v2-alpha-tpuv5-lite)
# EXTRAS   queued: extras to install (default: tpu,data,gcp)
# CLUSTER  xpk: name of the cluster
# IMAGE    xpk: address that the Docker image is pushed to
# DRY_RUN  if set, print the commands and run none
set -euo pipefail
cd "$(dirname "$0")/.."

how=${1:?say queued or xpk}
shift
: "${WORKDIR:?set WORKDIR to a folder in a bucket, such as gs://BUCKET/runs/u4k}"
name=${NAME:-urgt}
type=${TYPE:-v5litepod-32}
slices=${SLICES:-1}
zone=${ZONE:-us-central1-a}
read -ra spot <<<"${SPOT---spot}"
train="env WORKDIR=$(printf %q "$WORKDIR") pods/train.sh $(printf '%q ' "$@")--distributed"

nodes=("$name") # the names of the slices
if [ "$slices" -gt 1 ]; then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

run() {
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

resource() { # create, describe or delete the queued resource
  run gcloud compute tpus queued-resources "$1" "$name" --zone "$zone" "${@:2}"
}

on_hosts() { # run a command on hosts (all, or a number) of a slice
  run gcloud compute tpus tpu-vm ssh "$1" --zone "$zone" --worker "$2" --command "$3"
}

create() {
  local names=(--node-id "$name")
  if [ "$slices" -gt 1 ]; then
    names=(--node-count "$slices" --node-prefix "$name")
  fi
  resource create --accelerator-type "$type" --runtime-version "${RUNTIME:-v2-alpha-tpuv5-lite}" \
    "${names[@]}" "${spot[@]}"
}

start() { # install on the hosts of a slice and train in the background, if that was not done before
  run gcloud compute tpus tpu-vm scp urgt.tar.gz "$1:" --zone "$zone" --worker all &&
    on_hosts "$1" all "[ -e urgt/train.log ] && exit
    mkdir -p urgt && tar xzf urgt.tar.gz -C urgt && cd urgt || exit
    pods/setup.sh ${EXTRAS:-tpu,data,gcp} || exit
    ($train; echo \$? >status) >train.log 2>&1 </dev/null &"
}

follow() { # print the log of the first host, and return the status of the run
  # shellcheck disable=SC2016 # for the host
  on_hosts "${nodes[0]}" 0 'cd urgt || exit
    tail -n 20 -F train.log & log=$!
    until [ -s status ]; do sleep 5; done
    kill $log; exit "$(cat status)"'
}

state() {
  if [ -n "${DRY_RUN:-}" ]; then
    echo ACTIVE
  else
    resource describe --format 'value(state.state)' 2>/dev/null || echo NONE
  fi
}

run_queued() {
  if [ -n "${DRY_RUN:-}" ]; then create; fi
  run git archive --format tar.gz --output urgt.tar.gz HEAD
  while true; do
    case $(state) in
    NONE) create || [ "$(state)" != NONE ] || return 1 ;; # it exists if only `describe` had failed
    SUSPENDED | FAILED) resource delete --force --quiet ;; # preempted
    ACTIVE)
      for node in "${nodes[@]}"; do
        if ! start "$node"; then
          [ "$(state)" != ACTIVE ] || return 1
          continue 2 # preempted meanwhile
        fi
      done
      status=0
      follow || status=$?
      if run gcloud storage ls "$WORKDIR/weights.safetensors" >/dev/null; then
        resource delete --force --quiet
        return
      fi
      if [ "$status" = 1 ] || [ "$status" = 2 ]; then
        echo "the run failed: see urgt/train.log on $name, and delete it when you are done" >&2
        return "$status"
      fi
      ;;
    esac
    sleep "${PAUSE:-60}"
  done
}

run_xpk() {
  : "${CLUSTER:?set CLUSTER to the name of a cluster}"
  : "${IMAGE:?set IMAGE to an address in a registry}"
  run docker build -f pods/Dockerfile --target tpu -t "$IMAGE" .
  run docker push "$IMAGE"
  run xpk workload create --cluster "$CLUSTER" --workload "$name" --zone "$zone" \
    --tpu-type "$type" --num-slices "$slices" --docker-image "$IMAGE" "${spot[@]}" \
    --max-restarts 100 --termination-grace-period-seconds 120 --command "exec $train" # so that it gets SIGTERM
  run kubectl logs --follow --prefix --max-log-requests 256 \
    --selector "xpk.google.com/workload=$name"
}

case $how in
queued | xpk) "run_$how" ;;
*)
  echo "say queued or xpk, not $how" >&2
  exit 2
  ;;
esac
