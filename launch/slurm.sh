#!/usr/bin/env bash
# Trains on a SLURM cluster, and queues again after a preemption or at the time limit.
#   launch/slurm.sh [--dry_run] --config=configs/pretrain/dig.py:preset=lines \
#     --workdir=/shared/runs/dig ...
# Edit the #SBATCH lines. One task a GPU: JAX gives each task the GPU of its place on the node. So
# every task must see all GPUs of its node (--gpus-per-node, not --gpus-per-task).
# PYTHON names an interpreter that every node sees. CONTAINER: an image for the pyxis plug-in
# instead (launch/Dockerfile), with MOUNTS=/shared:/shared from outside. --dry_run prints the
# commands.
#SBATCH --job-name=dig_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -uo pipefail
dry_run='' flags=()
for flag in "$@"; do
  if [ "$flag" = --dry_run ]; then dry_run=1; else flags+=("$flag"); fi
done
[ ${#flags[@]} -gt 0 ] || { echo "give flags of dig_jax.main: see --help" >&2; exit 1; }
submit=(sbatch "${BASH_SOURCE[0]}" "${flags[@]}")
# 300 s after the first task has ended, SLURM ends the others.
train=(srun --wait=300)
[ -z "${CONTAINER:-}" ] || train+=("--container-image=$CONTAINER"
  "--container-mounts=${MOUNTS:-/shared:/shared}" --no-container-entrypoint)
train+=("${PYTHON:-python}" -m dig_jax.main "${flags[@]}")
if [ -n "$dry_run" ]; then printf '%s\n' "${submit[*]@Q}" "${train[*]@Q}"; exit 0; fi
[ -n "${SLURM_JOB_ID:-}" ] || exec "${submit[@]}"

# To the tasks by scancel: srun answers SIGTERM with SIGKILL to its tasks, and nothing is saved.
trap 'interrupted=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
"${train[@]}" &
# A trap ends `wait` early.
while interrupted='' code=0; wait "$!" || code=$?; [ -n "$interrupted" ]; do :; done
# 143 = saved after SIGTERM. A job that you cancelled runs no more, and stays away.
runs() { squeue --noheader --jobs="$SLURM_JOB_ID" --states=RUNNING --format=%i; }
if [ "$code" = 143 ] && [ -n "$(runs)" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
