#!/usr/bin/env bash
# The table of docs/results.md, stage by stage: DiG and its halves, judged on real lines. Finished work is not done again.
#   launch/real_input.sh records                       records/ from ../shared/data
#   launch/real_input.sh pretrain dig|dis|gen          training images of both sets, no label; one core: dig 79 minutes, gen 38
#   launch/real_input.sh judge START SET [PROTOCOL..]  START: random (of gen's shape), gen, dis, dig; SET: archiscribe, copiste_hw_fr
#   SEED=1 launch/real_input.sh judge dig archiscribe finetune_100    another seed, another choice of lines
#   launch/real_input.sh table                         writes the table into README.md
# One process a core is faster than one process on all cores: put `taskset -c N` in front. RECORDS and RUNS name other folders.
set -euo pipefail
python=${PYTHON:-.venv/bin/python} records=${RECORDS:-records} runs=${RUNS:-runs/real} seed=${SEED:-0}
main() { "$python" -m dig_jax.main "$@"; }

judge() { # start set protocol
  local start=$1 set=$2 protocol=$3 from like=() config every
  from=(--config.init_from="$runs/pretrain/$start")
  if [ "$start" = random ]; then from=() like=(",like=$runs/pretrain/gen"); fi
  local fine=finetune steps=800; [ "$start" = random ] && fine=scratch
  [ "$set" = copiste_hw_fr ] && steps=1200 # random weights leave the plateau of CTC late on these
  case $protocol in
    finetune_10) config=$fine.py:labels=0.1,batch=8,steps=$steps every=$((steps / 4)) ;;
    finetune_100) config=$fine.py:labels=100,batch=8,steps=$steps every=$((steps / 4)) ;;
    linear_10) config=probe.py:labels=0.1,rates=1e-2+3e-2+1e-1,batch=32,steps=1000 every=100 ;;
    linear_all) config=probe.py:rates=1e-2+3e-2+1e-1,batch=64,steps=800 every=80 ;;
    bilstm_10) config=probe.py:labels=0.1,head=bilstm,hidden=128,rates=1e-3+4e-3,batch=32,steps=500 every=50 ;;
  esac
  echo "== $start $set $protocol seed $seed"
  main --config="configs/recognize/$config,seed=$seed${like[*]-}" "${from[@]}" --config.data.train="$records/$set" \
    --config.evals.recognition.every_steps=$every --workdir="$runs/$set/$protocol/$start-$seed"
}

case ${1:-} in
  records) for set in archiscribe copiste_hw_fr; do
      "$python" -m dig_jax.tools.make_records --source=folder --input="../shared/data/$set" --output="$records/$set"; done ;;
  pretrain) main --config="configs/pretrain/dig.py:preset=cpu,objective=$2,probe=none" --workdir="$runs/pretrain/$2" \
      --config.data.train="$records/archiscribe,$records/copiste_hw_fr" ;;
  judge) for protocol in "${@:4}"; do judge "$2" "$3" "$protocol"; done
    [ $# -gt 3 ] || for protocol in finetune_10 finetune_100 linear_10 bilstm_10 linear_all; do judge "$2" "$3" "$protocol"; done ;;
  table) "$python" -m dig_jax.tools.results "$runs" --readme=README.md ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
