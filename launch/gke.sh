#!/usr/bin/env bash
# Submits a training to a GKE cluster as a JobSet: launch/gke.yaml, filled in. GKE restarts it after a preemption.
#   IMAGE=europe-docker.pkg.dev/mine/dig/dig_jax launch/gke.sh [--dry_run] --config=configs/pretrain/dig.py:preset=lines \
#     --workdir=/mnt/dig/runs/dig ...
# NAME: of the JobSet. HOSTS: machines of the slice. Kind of machine and storage stand in gke.yaml.
set -euo pipefail
dry_run='' flags=()
for flag in "$@"; do if [ "$flag" = --dry_run ]; then dry_run=1; else flags+=("$flag"); fi; done
[ -n "${IMAGE:-}" ] || { echo "IMAGE is not set: name the container image that holds dig_jax (docs/launch.md)" >&2; exit 1; }
json() { # a JSON list of the arguments, in which $ is doubled: the kubelet reads $(NAME) as a variable and $$ as $
  local list='' item
  for item in "$@"; do
    item=${item//\\/\\\\} item=${item//\"/\\\"} item=${item//$'\n'/\\n} item=${item//$'\t'/\\t}
    list+="${list:+, }\"${item//\$/\$\$}\""
  done
  printf '[%s]' "$list"
}
text=$(<"$(dirname "$0")/gke.yaml")
text=${text//@NAME@/"${NAME:-dig}"} text=${text//@HOSTS@/"${HOSTS:-4}"} text=${text//@IMAGE@/"$IMAGE"}
text=${text//@ARGS@/"$(json "${flags[@]}")"} # last: the flags are not searched for names
if [ -n "$dry_run" ]; then
  printf '%s\n' "kubectl create -f - <<'END'" "$text" END
else
  kubectl create -f - <<<"$text"
fi
