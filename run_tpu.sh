#!/usr/bin/env bash
# From nothing to a running job on Cloud TPU, one host or a pod slice, spot or not; see docs/tpu.md.
#
#   ./run_tpu.sh [--dry-run] create|setup|run|loop|delete [-- ARGUMENTS OF launch.py]
#
# create  makes the TPU VM (queued where QUEUED=1) and waits until it is there
# setup   installs Python, this repository and requirements-tpu.txt on every host
# run     starts launch.py on every host and waits for it
# loop    create, setup, run; again whenever the machine was taken away, until the job has ended
# delete  gives the machine back
#
# Settings come from the environment:
#   NAME=jaxseg  ZONE=us-central1-a  TYPE=v5litepod-8  VERSION=v2-alpha-tpuv5-lite  PROJECT=(gcloud's)
#   SPOT=1  QUEUED=1  REPOSITORY=https://...  BRANCH=main
# --dry-run prints the commands and runs none of them.
set -euo pipefail

NAME=${NAME:-jaxseg} ZONE=${ZONE:-us-central1-a} TYPE=${TYPE:-v5litepod-8} VERSION=${VERSION:-v2-alpha-tpuv5-lite}
PROJECT=${PROJECT:-} SPOT=${SPOT:-0} QUEUED=${QUEUED:-0} BRANCH=${BRANCH:-main}
PAUSE=${PAUSE:-60} # seconds between two looks or attempts
DRY=0
STOPPED="the same command resumes there" # what launch.py prints when it was told to stop

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }

execute() { # runs a command, or prints it
  if ((DRY)); then printf '%q ' "$@"; printf '\n'; else "$@"; fi
}

place() { # what every gcloud command ends with
  printf '%s\n' "--zone=$ZONE"
  if [[ -n $PROJECT ]]; then printf '%s\n' "--project=$PROJECT"; fi
}

on_all() { # on every host of the slice; one host is a slice too
  local options
  mapfile -t options < <(place)
  execute gcloud compute tpus tpu-vm ssh "$NAME" "${options[@]}" --worker=all --command="$1"
}

state() { # READY, PREEMPTED, ..., or nothing where there is no such machine
  local options
  mapfile -t options < <(place)
  gcloud compute tpus tpu-vm describe "$NAME" "${options[@]}" --format='value(state)' 2>/dev/null || true
}

create() {
  local options
  mapfile -t options < <(place)
  if ((SPOT)); then options+=(--spot); fi
  if ((QUEUED)); then
    execute gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" \
      --accelerator-type="$TYPE" --runtime-version="$VERSION" "${options[@]}"
  else
    execute gcloud compute tpus tpu-vm create "$NAME" \
      --accelerator-type="$TYPE" --version="$VERSION" "${options[@]}"
  fi
  if ((DRY)); then return; fi
  until [[ $(state) == READY ]]; do
    say "waiting for $NAME"
    sleep "$PAUSE"
  done
}

setup() {
  [[ -n ${REPOSITORY:-} ]] || die "REPOSITORY is not set; give the address that the hosts clone, such as https://..."
  local source branch
  printf -v source '%q' "$REPOSITORY"
  printf -v branch '%q' "$BRANCH"
  # The images bring Python 3.10; uv fetches a newer one and needs no root.
  on_all "set -e; [ -d jaxseg ] || git clone $source jaxseg; cd jaxseg; git fetch origin; git checkout $branch; git pull --ff-only; \
python3 -m pip install --quiet --user uv; [ -d ~/venv ] || ~/.local/bin/uv venv --python 3.11 ~/venv; \
~/.local/bin/uv pip install --quiet --python ~/venv/bin/python -r requirements-tpu.txt"
}

run() { # the same command on every host: JAX finds the others by itself
  (($#)) || die "nothing to run; give the arguments of launch.py after --, such as -- --config configs/X.py --workdir DIR"
  local arguments
  printf -v arguments '%q ' "$@"
  on_all "cd jaxseg && ~/venv/bin/python -u launch.py $arguments"
}

delete() {
  local options
  mapfile -t options < <(place)
  if ((QUEUED)); then
    execute gcloud compute tpus queued-resources delete "$NAME" --force --quiet "${options[@]}"
  else
    execute gcloud compute tpus tpu-vm delete "$NAME" --quiet "${options[@]}"
  fi
}

renew() { # a machine that is there and installed
  if ((!DRY)); then
    local now
    now=$(state)
    if [[ $now == READY ]]; then return; fi
    if [[ -n $now ]] || ((QUEUED)); then delete || true; fi # a suspended request outlives its machine
  fi
  create && setup
}

loop() {
  (($#)) || run
  local log status
  log=$(mktemp)
  while true; do
    if renew; then
      status=0
      run "$@" 2>&1 | tee "$log" || status=$?
      # Told to stop is not the end of the job, though launch.py has saved and ends with status 0.
      if ((DRY || status == 0)) && ! grep -q "$STOPPED" "$log"; then break; fi
      if ((status == 2)); then die "the job was refused; see its message above"; fi
      say "the job stopped (status $status); it resumes from its last checkpoint"
    fi
    sleep "$PAUSE"
  done
  rm -f "$log"
}

if [[ ${1:-} == --dry-run ]]; then DRY=1; shift; fi
action=${1:-}
shift || true
if [[ ${1:-} == -- ]]; then shift; fi
case $action in
  create | setup | run | loop | delete) "$action" "$@" ;;
  *) usage ;;
esac
