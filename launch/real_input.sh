#!/usr/bin/env bash
# The table of docs/results_plain.md, stage by stage: pre-training methods, judged on real lines.
#   launch/real_input.sh records
#     records/ from ../shared/data
#   launch/real_input.sh pretrain START [FLAG..]
#     training images of both sets, no label. START: dig, its halves dis and gen, or a file of
#     configs/pretrain; one core: gen 38 minutes. FLAG: of dig_jax.main
#   SEED=1 launch/real_input.sh pretrain START
#     another seed: judge with SEED=1 then starts from it
#   STEPS=24000 RUNS=runs/longer launch/real_input.sh pretrain START
#     another length, in a folder of its own; its table: python -m dig_jax.tools.results runs/longer
#   launch/real_input.sh judge START SET [PROTOCOL..]
#     START also random (of gen's shape). SET: archiscribe or copiste_hw_fr. PROTOCOL: finetune_10,
#     finetune_100, linear_10, linear_all, bilstm_10, or other rates with 10 %, such as
#     bilstm_10_8e-3+1.6e-2: the lowest counts
#   SEED=1 launch/real_input.sh judge dig archiscribe finetune_100
#     another seed, another choice of lines
#   launch/real_input.sh bench START..
#     time and memory of a step, for the table; wants a quiet machine
#   launch/real_input.sh table
#     writes the table into docs/results_plain.md; rows of earlier machines stay
# Finished work is not done again. One process a core is faster than one process on all cores: put
# `taskset -c N` in front. RECORDS and RUNS name other folders.
case " $* " in "  " | *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
python=${PYTHON:-.venv/bin/python} records=${RECORDS:-records} runs=${RUNS:-runs/real}
seed=${SEED:-0}
both=$records/archiscribe,$records/copiste_hw_fr
main() { "$python" -m dig_jax.main "$@"; }

recipe() { # start -> its pre-training config
  case $1 in dis | gen) echo "configs/pretrain/dig.py:preset=cpu,objective=$1,probe=none" ;;
    *) echo "configs/pretrain/$1.py:preset=cpu,probe=none" ;; esac
}

judge() { # start set protocol
  local start=$1 set=$2 protocol=$3 like=() config every
  local source=$runs/pretrain/$start; [ -d "$source-$seed" ] && source+=-$seed
  local from=(--config.init_from="$source")
  if [ "$start" = random ]; then from=() like=(",shape_from=$runs/pretrain/gen"); fi
  local fine=finetune steps=800; [ "$start" = random ] && fine=scratch
  [ "$set" = copiste_hw_fr ] && steps=1200 # random weights leave the plateau of CTC late on these
  local rates=${protocol##*_10}; rates=${rates#_} # of finetune_10_3e-3: 3e-3; of finetune_10: none
  case $protocol in
    finetune_100) every=$((steps / 4))
      config=$fine.py:preset=plain,labels=100,batch=8,steps=$steps ;;
    finetune_10*) config=$fine.py:preset=plain,labels=0.1,batch=8,steps=$steps${rates:+,lr=$rates}
      every=$((steps / 4)) ;;
    linear_10*) config=probe.py:labels=0.1,rates=${rates:-1e-2+3e-2+1e-1},batch=32,steps=1000
      every=100 ;;
    linear_all) config=probe.py:rates=1e-2+3e-2+1e-1,batch=64,steps=800 every=80 ;;
    bilstm_10*) config=probe.py:labels=0.1,head=bilstm,hidden=128,batch=32,steps=500
      config+=,rates=${rates:-1e-3+4e-3} every=50 ;;
  esac
  echo "== $start $set $protocol seed $seed"
  main --config="configs/recognize/$config,seed=$seed${like[*]-}" "${from[@]}" \
    --config.data.train="$records/$set" --config.evals.recognition.every_steps=$every \
    --workdir="$runs/$set/$protocol/$start-$seed"
}

least=0; case $1 in pretrain | bench) least=1 ;; judge) least=2 ;; esac # behind the stage
[ $# -gt $least ] || { echo "$1 needs $least arguments or more: see --help" >&2; exit 2; }
case $1 in
  records) for set in archiscribe copiste_hw_fr; do
      "$python" -m dig_jax.tools.make_records --source=folder --input="../shared/data/$set" \
        --output="$records/$set"
    done ;;
  pretrain) folder=$runs/pretrain/$2; [ "$seed" = 0 ] || folder+=-$seed
    main --config="$(recipe "$2")${STEPS:+,steps=$STEPS},seed=$seed" --workdir="$folder" \
      --config.data.train="$both" --config.data.contrast=None "${@:3}" ;;
  bench) mkdir -p "$runs/bench"; for start in "${@:2}"; do
      "$python" -m dig_jax.tools.perf.bench_step --config="$(recipe "$start")" \
        --config.data.train="$both" >"$runs/bench/$start.json"
    done ;;
  judge) protocols=("${@:4}")
    [ $# -gt 3 ] || protocols=(finetune_10 finetune_10_3e-3 finetune_100 linear_10 bilstm_10
      linear_all)
    for protocol in "${protocols[@]}"; do judge "$2" "$3" "$protocol"; done ;;
  table) "$python" -m dig_jax.tools.results "$runs" --figures=docs/figures.jsonl \
      --readme=docs/results_plain.md --keep ;;
  *) "$0" --help; exit 2 ;;
esac
