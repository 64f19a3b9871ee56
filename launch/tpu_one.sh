#!/usr/bin/env bash
# Trains on one TPU VM of up to 8 chips, with no shared storage, and fetches the run.
#   PROJECT=mine ZONE=us-west4-a launch/tpu_one.sh [--dry_run] records/words \
#     --config=dig:preset=words --config.data.train=records/words --workdir=runs/dig ...
# Arguments that are no flags are folders to copy to the VM first. Paths hold here and there. The
# code of HEAD is copied, and a Python 3.11 made with uv. Training goes on there if the connection
# is lost (exit code 255): the same command looks on again. When it has ended, well or not, its work
# folder is copied to this machine, and its exit code is the script's. The VM stays, and costs
# money, until you delete it: the last line says how.
# NAME, ACCELERATOR, RUNTIME: which VM (dig, v5litepod-8, v2-alpha-tpuv5-lite). --dry_run prints the
# commands.
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
dry_run='' flags=() folders=() workdir='' code=0
for flag in "$@"; do case $flag in
  --dry_run) dry_run=1 ;;
  -*) flags+=("$flag"); case $flag in --workdir=*) workdir=${flag#*=} ;; esac ;;
  *) folders+=("$flag") ;;
esac; done
for name in PROJECT ZONE; do
  [ -n "${!name:-}" ] || { echo "$name is not set: see --help" >&2; exit 1; }; done
for path in "--workdir=$workdir" "${folders[@]}"; do case /${path#--workdir=}/ in
  // | //* | *://* | */../*) echo "$path: give a path below this folder, for here and there" >&2
    exit 1 ;; esac; done
name=${NAME:-dig}
archive=${TMPDIR:-/tmp}/code-$name.tar.gz
uv="\$HOME/.local/bin/uv" python="--python .venv/bin/python"
say() { if [ -n "$dry_run" ]; then printf '%s\n' "${*@Q}"; else "$@"; fi; }
tpu() { say gcloud compute tpus tpu-vm "$@" "--project=$PROJECT" "--zone=$ZONE"; }
on_it() { tpu ssh "$name" "--command=$1"; }
away() { echo "$name is out of reach: the same command looks on" >&2; exit 255; }
fill() { # never below a training: code, packages and records
  say git -C "$(dirname "$0")/.." archive --output="$archive" HEAD
  tpu scp "$archive" "$name:code.tar.gz"
  on_it "mkdir -p dig_jax && tar xzf code.tar.gz -C dig_jax && cd dig_jax &&\
 mkdir -p ${folders[*]@Q} . && pip install -q uv &&\
 $uv venv -q --allow-existing --python 3.11 .venv &&\
 $uv pip install -q $python -r requirements.txt 'jax[tpu]' &&\
 $uv pip install -q $python --no-deps -e ."
  for path in "${folders[@]}"; do tpu scp --recurse "$path" "$name:dig_jax/$(dirname "$path")"; done
}
if [ -n "$dry_run" ] || ! tpu describe "$name" '--format=value(state)'; then
  tpu create "$name" "--accelerator-type=${ACCELERATOR:-v5litepod-8}" \
    "--version=${RUNTIME:-v2-alpha-tpuv5-lite}"
  fill
else # 1: none was started, or it has ended
  on_it "kill -0 \"\$(cat dig_jax/train.pid)\"" || { [ $? != 255 ] || away; fill; }
fi
on_it "cd dig_jax && { kill -0 \"\$(cat train.pid 2>/dev/null)\" 2>/dev/null || {\
 rm -f train.code && { PYTHON=.venv/bin/python\
 setsid nohup sh -c 'launch/local.sh \"\$@\"; echo \$? >train.code' -\
 ${flags[*]@Q} >>train.log 2>&1 </dev/null & echo \$! >train.pid; }; }; }; touch train.log;\
 tail -n +1 --pid=\"\$(cat train.pid)\" -f train.log;\
 exit \$(cat train.code || echo 137)" || code=$?
[ "$code" != 255 ] || away
say mkdir -p "$(dirname "$workdir")"
tpu scp --recurse "$name:dig_jax/$workdir" "$(dirname "$workdir")" || code=$((code ? code : 1))
echo "# delete the VM: gcloud compute tpus tpu-vm delete $name --project=$PROJECT --zone=$ZONE"
exit "$code"
