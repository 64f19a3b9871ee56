#!/usr/bin/env bash
# Submits a training to a GKE cluster as a JobSet: launch/gke.yaml, filled in.
#   IMAGE=europe-docker.pkg.dev/mine/dig/dig_jax launch/gke.sh [--dry_run] \
#     --config=configs/pretrain/dig.py:preset=lines --workdir=/mnt/dig/runs/dig ...
# GKE restarts it after a preemption. NAME: of the JobSet. HOSTS: machines of the slice. Kind of
# machine and storage stand in gke.yaml. --dry_run prints the command.
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
dry_run='' flags=()
for flag in "$@"; do
  if [ "$flag" = --dry_run ]; then dry_run=1; else flags+=("$flag"); fi
done
[ ${#flags[@]} -gt 0 ] || { echo "give flags of dig_jax.main: see --help" >&2; exit 1; }
[ -n "${IMAGE:-}" ] || {
  echo "IMAGE is not set: name the container image that holds dig_jax (docs/launch.md)" >&2
  exit 1; }
# A JSON list of the arguments. $ is doubled: the kubelet reads $(NAME) as a variable and $$ as $.
json() {
  local list='' item
  for item in "$@"; do
    item=${item//\\/\\\\} item=${item//\"/\\\"} item=${item//$'\n'/\\n} item=${item//$'\t'/\\t}
    list+="${list:+, }\"${item//\$/\$\$}\""
  done
  printf '[%s]' "$list"
}
text=$(<"$(dirname "$0")/gke.yaml")
text=${text//@NAME@/"${NAME:-dig}"} text=${text//@HOSTS@/"${HOSTS:-4}"}
text=${text//@IMAGE@/"$IMAGE"}
# Last: the flags are not searched for names.
text=${text//@ARGS@/"$(json "${flags[@]}")"}
if [ -n "$dry_run" ]; then
  printf '%s\n' "kubectl create -f - <<'END'" "$text" END
else
  kubectl create -f - <<<"$text"
fi
