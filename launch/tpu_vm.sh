#!/usr/bin/env bash
# Trains on a TPU slice got as a queued resource, and asks for another when it is preempted.
#   launch/tpu_vm.sh [--dry_run] --config=configs/pretrain/dig.py:preset=lines \
#     --workdir=/mnt/dig/runs/dig ...
# Run it where it can stay up (tmux). --dry_run prints the commands. PROJECT, ZONE and
# SETUP must be set.
# NAME, ACCELERATOR, RUNTIME and TIER (spot, reserved or on-demand) say which slice.
# SETUP is what every worker runs first, each time. It must leave the shell in the repository, with
# the package in $PYTHON and --workdir on storage that the workers share and that outlives them,
# such as Filestore at /mnt/dig. When all is done the slice is deleted. It gives up after three
# failures in a row: a training that ends by itself, a worker or connection lost before QUICK_S
# seconds (600). POLL_S: seconds between two looks at the slice (60).
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -uo pipefail
dry_run='' flags=() failures=0 poll_s=${POLL_S:-60} quick_s=${QUICK_S:-600}
for flag in "$@"; do
  if [ "$flag" = --dry_run ]; then dry_run=1; else flags+=("$flag"); fi
done
[ ${#flags[@]} -gt 0 ] || { echo "give flags of dig_jax.main: see --help" >&2; exit 1; }
for name in PROJECT ZONE SETUP; do
  [ -n "${!name:-}" ] || { echo "$name is not set: see docs/launch.md" >&2; exit 1; }; done
name=${NAME:-dig} train=("${PYTHON:-python}" -m dig_jax.main "${flags[@]}")
slice=("--accelerator-type=${ACCELERATOR:-v5litepod-16}"
  "--runtime-version=${RUNTIME:-v2-alpha-tpuv5-lite}")
[ "${TIER:-spot}" = on-demand ] || slice+=("--${TIER:-spot}")
tpu() { # asks gcloud, or prints what it would be asked
  local call=(gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE")
  if [ -n "$dry_run" ]; then printf '%s\n' "${call[*]@Q}"; else "${call[@]}"; fi
}
state() { tpu queued-resources list "--filter=name~/$name\$" '--format=value(state.state)'; }
create() { tpu queued-resources create "$name" "--node-id=$name" "${slice[@]}"; }
# A run that a lost connection left behind still holds the chips: it saves, and makes room. The
# shell wrote down its process number and became the run. What bears that number is compared, too:
# numbers are given to others later.
pid="\"\${TMPDIR:-/tmp}/dig_jax-$name.pid\""
left="ps -ww -o args= -p \"\$(cat $pid 2>/dev/null)\" 2>/dev/null | grep -q -e '-m dig_jax.main'"
run() {
  tpu tpu-vm ssh "$name" --worker=all "--command=$left && kill \"\$(cat $pid)\" && sleep 30;\
 { $SETUP
} && echo \$\$ >$pid && exec ${train[*]@Q}"
}
remove() { tpu queued-resources delete "$name" --force --quiet; }
if [ -n "$dry_run" ]; then state; create; run; remove; exit 0; fi
while [ "$failures" -lt 3 ]; do
  SECONDS=0
  case $(state || echo unknown) in
    ACTIVE)
      if run; then remove; exit; else code=$?; fi
      failures=$((code < 128 || SECONDS < quick_s ? failures + 1 : 0)) ;;
    SUSPENDED) remove; failures=0 ;; # preempted, and never served again
    FAILED) remove; failures=$((failures + 1)) ;;
    '') create || failures=$((failures + 1)) ;;
  esac # in any other state it is on its way, or gcloud cannot be reached
  sleep "$poll_s"
done
what="what there is still costs money: $(dry_run=1; remove)"
echo "tpu_vm.sh: three failures in a row; $what" >&2
exit 1
