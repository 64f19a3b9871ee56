#!/usr/bin/env bash
# Submits a training to Vertex AI as a custom job: one machine with its GPUs or TPU chips.
#   PROJECT=mine REGION=us-central1 IMAGE=us-docker.pkg.dev/mine/dig/dig_jax NFS=10.0.0.2:/dig \
#     NETWORK=projects/123/global/networks/default \
#     launch/vertex.sh [--dry_run] --config=dig:preset=words --workdir=/mnt/nfs/dig/runs/dig ...
# IMAGE: made from launch/Dockerfile. NFS: a share with records and work folders, which appears at
# /mnt/nfs/dig. NETWORK: the one that is peered with Vertex AI and reaches it. MACHINE: its type
# (a3-highgpu-8g). GPU and GPUS: kind and number (NVIDIA_H100_80GB, 8); GPUS=0 for a machine of TPU
# chips, with TOPOLOGY (ct5lp-hightpu-4t and 2x2). TIER: SPOT (default) or STANDARD. A machine that
# is lost is replaced, and the run goes on from its last checkpoint. --dry_run prints the command.
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
dry_run='' flags=()
for flag in "$@"; do
  if [ "$flag" = --dry_run ]; then dry_run=1; else flags+=("$flag"); fi
done
[ ${#flags[@]} -gt 0 ] || { echo "give flags of dig_jax.main: see --help" >&2; exit 1; }
for name in PROJECT REGION IMAGE NFS NETWORK; do
  [ -n "${!name:-}" ] || {
    echo "$name is not set: launch/vertex.sh --help says what it is for" >&2; exit 1; }
done
json() { # a JSON list of strings
  local list='' item
  for item in "$@"; do
    item=${item//\\/\\\\} item=${item//\"/\\\"} item=${item//$'\n'/\\n} item=${item//$'\t'/\\t}
    list+="${list:+, }\"$item\""
  done
  printf '[%s]' "$list"
}
machine="\"machineType\": \"${MACHINE:-a3-highgpu-8g}\""
if [ "${GPUS:-8}" -gt 0 ]; then
  machine+=", \"acceleratorType\": \"${GPU:-NVIDIA_H100_80GB}\""
  machine+=", \"acceleratorCount\": ${GPUS:-8}"
else
  machine+=", \"tpuTopology\": \"${TOPOLOGY:-2x2}\""
fi
share="\"server\": \"${NFS%%:*}\", \"path\": \"${NFS#*:}\", \"mountPoint\": \"dig\""
pool="{\"machineSpec\": {$machine}, \"replicaCount\": 1, \"nfsMounts\": [{$share}], "
pool+="\"containerSpec\": {\"imageUri\": \"$IMAGE\", \"args\": $(json "${flags[@]}")}}"
scheduling="{\"strategy\": \"${TIER:-SPOT}\", \"restartJobOnWorkerRestart\": true}"
spec="{\"workerPoolSpecs\": [$pool], \"scheduling\": $scheduling, \"network\": \"$NETWORK\"}"
call=(gcloud ai custom-jobs create "--project=$PROJECT" "--region=$REGION"
  "--display-name=${NAME:-dig}" --config=/dev/stdin)
if [ -n "$dry_run" ]; then
  printf '%s\n' "${call[*]@Q} <<'END'" "$spec" END
else
  "${call[@]}" <<<"$spec"
fi
