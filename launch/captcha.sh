#!/usr/bin/env bash
# What unlabelled captchas are worth, one command: launch/captcha.sh all
#   launch/captcha.sh records             ../shared/data/captcha_ds, and drawn ones in five styles
#   launch/captcha.sh pretrain START      on the images of both: seqclr (SimCLR on five windows a
#                                         captcha), simsiam (the same windows), mocov3, gen, dig
#   launch/captcha.sh judge START [LABELS..]    START also random; fine-tuned with so many labelled
#                                         captchas of captcha_ds: 20, 50, 100 and 200
#   launch/captcha.sh table               CER of every start with intervals, and RUNS/labels.svg
#   launch/captcha.sh all                 everything, seeds 0, 1 and 2: a night of one core
# Validation chooses the step; the test split of captcha_ds and the drawn captchas are read there.
# Finished work is not done again. SEED, STEPS, RECORDS and RUNS as in launch/strong.sh.
case " $* " in "  " | *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
python=${PYTHON:-.venv/bin/python} records=${RECORDS:-records} runs=${RUNS:-runs/captcha}
seed=${SEED:-0} start=${2:-}
least=0; case $1 in pretrain | judge) least=1 ;; esac # behind the stage
[ $# -gt $least ] || { echo "$1 needs $least arguments or more: see --help" >&2; exit 2; }
real=$records/captcha_ds drawn=$records/captcha_drawn
main() { "$python" -m dig_jax.main "$@"; }

case $1 in
  records)
    [ -d "$real" ] || "$python" -m dig_jax.tools.make_records --source=folder \
      --input=../shared/data/captcha_ds --output="$real"
    [ -d "$drawn" ] || "$python" -m dig_jax.tools.make_records --source=captcha --output="$drawn" \
      --splits=train=4000,validation=300 --characters=0123456789 --min_chars=4 --max_chars=4 ;;
  pretrain)
    case $start in
      gen) config=dig:objective=gen, flags=() ;;
      dig) config=dig: flags=(--config.method.window_px=30) ;;
      seqclr | simsiam) config=$start: flags=(--config.method.window_px=30) ;;
      *) config=$start: flags=() ;;
    esac
    config+=preset=cpu,size=cnn48,patch=32x4,probe=none
    config+=,seed=$seed,batch=32,steps=${STEPS:-1500}
    main --config="$config" "${flags[@]}" --config.data.train="$real,$drawn" \
      --config.data.width_px=144 \
      --config.method.encoder.dtype=float32 --workdir="$runs/pretrain/$start-$seed" ;;
  judge)
    labels=("${@:3}"); [ $# -gt 2 ] || labels=(20 50 100 200)
    for count in "${labels[@]}"; do
      common=labels=$count,seed=$seed,steps=${STEPS:-800} # linear CTC alone stays on its plateau
      config=finetune:$common from=(--config.init_from="$runs/pretrain/$start-$seed")
      [ "$start" != random ] || config=scratch:size=cnn48,patch=32x4,$common from=()
      main --config="$config" "${from[@]}" --config.data.train="$real" \
        --config.evals.recognition.datasets="$real@validation,$real@test,$drawn@validation" \
        --config.evals.recognition.every_steps=$((${STEPS:-800} / 4)) \
        --workdir="$runs/judged/$count/$start-$seed"; done ;;
  table) points=()
    for run in "$runs"/judged/*/*/; do
      name=$(basename "$run") points+=("${name%-*}=$run"); done
    "$python" -m dig_jax.tools.results "$runs/judged" --intervals
    "$python" -m dig_jax.tools.label_curves --log --set=captcha_ds-test \
      --title="CER on the test captchas, by labelled captchas" --output="$runs/labels.svg" \
      "${points[@]}" ;;
  all) "$0" records
    for seed in 0 1 2; do for start in random seqclr simsiam mocov3 gen dig; do
      [ "$start" = random ] || SEED=$seed "$0" pretrain "$start"
      SEED=$seed "$0" judge "$start"; done; done
    "$0" table ;;
  *) "$0" --help; exit 2 ;;
esac
