#!/usr/bin/env bash
# Trains on a SLURM cluster and asks for its place in the queue again after a preemption or at the time limit.
#   launch/slurm.sh [--dry_run] --config=configs/pretrain/dig.py:preset=lines --workdir=/shared/runs/dig ...
# Edit the #SBATCH lines. One task a GPU: JAX gives each task the GPU of its place on the node, so every task of a node must see
# all GPUs of that node (--gpus-per-node, not --gpus-per-task). PYTHON names an interpreter that every node sees.
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
set -uo pipefail
dry_run='' flags=()
for flag in "$@"; do if [ "$flag" = --dry_run ]; then dry_run=1; else flags+=("$flag"); fi; done
submit=(sbatch "${BASH_SOURCE[0]}" "${flags[@]}")
train=(srun --wait=300 "${PYTHON:-python}" -m dig_jax.main "${flags[@]}") # 300 s after the first task has ended, SLURM ends the others
if [ -n "$dry_run" ]; then printf '%s\n' "${submit[*]@Q}" "${train[*]@Q}"; exit 0; fi
[ -n "${SLURM_JOB_ID:-}" ] || exec "${submit[@]}"

# To the tasks by scancel: srun itself answers SIGTERM with SIGKILL to its tasks, and nothing would be saved.
trap 'interrupted=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
"${train[@]}" &
while interrupted='' code=0; wait "$!" || code=$?; [ -n "$interrupted" ]; do :; done # a trap ends `wait` early
# 143 = saved after SIGTERM. Only a job that still runs goes back to the queue: one that you cancelled stays away.
if [ "$code" = 143 ] && [ -n "$(squeue --noheader --jobs="$SLURM_JOB_ID" --states=RUNNING --format=%i)" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
