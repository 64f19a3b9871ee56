#!/usr/bin/env bash
# Trains on this machine, in one process or several, and starts again after a preemption.
#   launch/local.sh [--processes=N] [--dry_run] --config=configs/pretrain/dig.py:preset=cpu \
#     --workdir=runs/dig ...
# All other flags go to dig_jax.main. One process drives every GPU of the machine; of N processes
# each takes one. PYTHON names another interpreter. --dry_run prints the commands.
# A worker that saved after SIGTERM (143) or was killed (128 + signal) is a preemption: all start
# again, unless three attempts in a row last less than QUICK_S seconds.
# Exit code 0: done; 1: a sentence, also where the others then miss that worker (134); 143 or 130:
# saved after SIGTERM to this script, or Ctrl-C.
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -uo pipefail
# A step on a CPU takes a fifth less time with huge pages (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
processes=1 dry_run='' flags=()
for flag in "$@"; do
  case $flag in
    --processes=*) processes=${flag#*=} ;;
    --dry_run) dry_run=1 ;;
    *) flags+=("$flag") ;;
  esac
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || {
  echo "--processes=$processes: give a number of processes, 1 or more" >&2; exit 1; }
[ ${#flags[@]} -gt 0 ] || { echo "give flags of dig_jax.main: see --help" >&2; exit 1; }
worker() { # index, port of process 0
  command=("${PYTHON:-python}" -m dig_jax.main "${flags[@]}")
  [ "$processes" = 1 ] || command=(env "JAX_COORDINATOR_ADDRESS=localhost:$2" \
    "DIG_PROCESS_COUNT=$processes" "DIG_PROCESS_INDEX=$1" "JAX_LOCAL_DEVICE_IDS=$1" "${command[@]}")
}
pids=() stopping='' short=0 quick_s=${QUICK_S:-60}
# The second signal kills.
trap 'kill "-${stopping:-TERM}" "${pids[@]}" 2>/dev/null; stopping=KILL interrupted=1' TERM INT
while [ "$short" -lt 3 ]; do
  port=$((10000 + RANDOM % 20000)) worst=0 said='' killed='' SECONDS=0 pids=()
  for ((i = 0; i < processes; i++)); do
    worker "$i" "$port"
    if [ -n "$dry_run" ]; then printf '%s\n' "${command[*]@Q}"; continue; fi
    "${command[@]}" & pids+=("$!")
  done
  [ -z "$dry_run" ] || exit 0
  [ -z "$stopping" ] || kill -TERM "${pids[@]}" # the signal came while they were starting
  for pid in "${pids[@]}"; do
    # A trap ends `wait` early.
    while interrupted='' code=0; wait "$pid" || code=$?; [ -n "$interrupted" ]; do :; done
    [ "$code" -le "$worst" ] || worst=$code
    case $code in 0 | 134) ;; 1) said=1 ;; *) killed=1 ;; esac
  done
  # What misses a worker ends with 134. Where one was killed, 1 may be of another that misses it.
  [ -z "$said" ] || [ -n "$killed" ] || worst=1
  if [ -n "$stopping" ] || [ "$worst" -lt 128 ]; then exit "$worst"; fi
  short=$((SECONDS < quick_s ? short + 1 : 0))
  echo "local.sh: exit code $worst after $SECONDS s" >&2
done
echo "local.sh: three attempts in a row lasted less than $quick_s s: giving up" >&2
exit "$worst"
