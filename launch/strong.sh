#!/usr/bin/env bash
# The tables of the strong recogniser, stage by stage, on one core each; all resumes, done is done.
#   launch/strong.sh records                     records/ from ../shared/data
#   launch/strong.sh pretrain START [FLAG..]     images of both sets, no label: gen, dig, dis, or a
#                                                file of configs/pretrain; FLAG: of dig_jax.main
#   NAME=can launch/strong.sh pretrain mae:can   with its arguments; START is then the NAME
#   launch/strong.sh rendered [START]            a reader of rendered lines: the start "rendered"
#                                                or, on the encoder of START, START_rendered
#   launch/strong.sh judge START SET LABELS..    START also random; SET archiscribe, copiste_hw_fr;
#                                                LABELS 34, 100, 0.1 (a tenth) or 1.0 (all)
#   launch/strong.sh ablate SET [PIECE..]        the recipe without one of its pieces, LABELS or 0.1
#                                                labels; vit, vit_stem, vit_plain: a ViT instead
#   launch/strong.sh readers SET [DECODER..]     decoders on encoder START=gen-0 (or random), for
#                                                USE (probe, finetune), SHORTCUT (0: without);
#                                                SET also captcha_ds, ..
#   launch/strong.sh bench                       step and reading beside PyTorch (dig_jax[torch])
#   launch/strong.sh table                       prints the tables, with intervals by line and work
# SIZE: cnn48 (default), cnn48_lstm, cnn, micro. SEED, STEPS, RECORDS, RUNS; BLOCK, BATCH, RATES.
case " $* " in "  " | *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
python=${PYTHON:-.venv/bin/python} records=${RECORDS:-records} runs=${RUNS:-runs/strong}
seed=${SEED:-0} size=${SIZE:-cnn48}
main() { "$python" -m dig_jax.main "$@"; }
# set -> steps of a recogniser: handwriting leaves the plateau of CTC later
steps() { [ "$1" = copiste_hw_fr ] && echo "${STEPS:-2600}" || echo "${STEPS:-1900}"; }
# size -> the reader behind it: LSTMs are in the encoder, or in front of the classes
reader() { case $1 in *_lstm) echo head=linear ;; *) echo head=bilstm2 ;; esac; }

least=0; case $1 in pretrain | ablate | readers) least=1 ;; judge) least=3 ;; esac
[ $# -gt $least ] || { echo "$1 needs $least arguments or more: see --help" >&2; exit 2; }
case $1 in
  records) for set in archiscribe copiste_hw_fr captcha_ds icdar2015_words; do
      "$python" -m dig_jax.tools.make_records --source=folder --input="../shared/data/$set" \
        --output="$records/$set"; done ;;
  pretrain)
    case $2 in dis | gen) config="dig:objective=$2," ;; *:*) config=$2, ;; *) config=$2: ;; esac
    name=${NAME:-${2%%:*}}
    config+=preset=cpu,size=$size,patch=32x4,probe=none,seed=$seed${STEPS:+,steps=$STEPS}
    main --config="$config" \
      --config.data.train="$records/archiscribe,$records/copiste_hw_fr" \
      --config.method.encoder.dtype=float32 \
      --workdir="$runs/$size/pretrain/$name-$seed" "${@:3}" ;;
  rendered)
    [ -d "$records/print" ] || "$python" -m dig_jax.tools.make_records --source=lines --seed=1 \
      --splits=train=10000,validation=300 --output="$records/print"
    config=scratch:size=$size,patch=32x4, from=() start=rendered
    [ $# -lt 2 ] || config=finetune: start=$2_rendered \
      from=(--config.init_from="$runs/$size/pretrain/$2-$seed")
    config+=$(reader "$size"),batch=16,steps=${STEPS:-1600},seed=$seed
    main --config="$config" "${from[@]}" --config.data.train="$records/print" \
      --workdir="$runs/$size/pretrain/$start-$seed" ;;
  judge) for labels in "${@:4}"; do
      common="labels=$labels,steps=$(steps "$3"),seed=$seed,$(reader "$size"),block=${BLOCK:-last}"
      if [ "$2" = random ]; then config=scratch:size=$size,patch=32x4,$common from=()
      else config=finetune:$common from=(--config.init_from="$runs/$size/pretrain/$2-$seed"); fi
      main --config="$config" "${from[@]}" --config.data.train="$records/$3" \
        --workdir="$runs/$size/$3/$labels/$2${BLOCK:+_block$BLOCK}-$seed"; done ;;
  ablate)
    pieces=("${@:3}")
    [ $# -gt 2 ] || pieces=(whole augmentation contrast schedule mean dropout shortcut lstm height)
    for piece in "${pieces[@]}"; do
      args=labels=${LABELS:-0.1},steps=$(steps "$2"),seed=$seed flags=() name=without_$piece
      case $piece in
        whole) args=size=cnn48,$args ;; augmentation) args=size=cnn48,recipe=,$args ;;
        contrast) args=size=cnn48,$args flags=(--config.data.contrast=None) ;;
        schedule) args=size=cnn48,$args
          flags=(--config.optim.{schedule=constant,warmup_steps=0,average=None}) ;;
        dropout) args=size=cnn48,$args flags=(--config.method.heads.ctc.dropout=0.0) ;;
        shortcut) args=size=cnn48,$args flags=(--config.method.heads.ctc.shortcut=0.0) ;;
        mean) args=size=cnn48,$args flags=(--config.optim.average=None) ;;
        lstm) args=size=cnn48,head=linear,$args ;; height) args=size=cnn,$args ;;
        vit) args=size=micro,patch=32x4,$args name=vit ;;
        vit_stem) args=size=micro_stem,patch=48x6,height=48,$args name=vit_stem ;;
        vit_plain) args=size=micro,patch=32x4,$args name=vit_plain # features as they are
          flags=(--config.method.standardize=False) ;;
        *) echo "no piece $piece: see --help" >&2; exit 2 ;;
      esac
      main --config="scratch:$args" "${flags[@]}" --config.data.train="$records/$2" \
        --workdir="$runs/ablation/$2-${LABELS:-0.1}/$name-$seed"; done ;;
  readers)
    decoders=("${@:3}") length=${STEPS:-1000} labels=0.1 start=${START:-gen-0}
    [ $# -gt 2 ] || decoders=(linear bilstm attention transformer glimpse)
    case $2 in captcha_ds | icdar2015_words) labels=1.0 ;; esac
    for decoder in "${decoders[@]}"; do
      case $decoder in
        linear) kind=ctc,head=linear rates=${RATES:-1e-2+3e-2} ;;
        bilstm) kind=ctc,head=bilstm rates=1e-3+4e-3 ;;
        *) kind=$decoder${SHORTCUT:+,shortcut=$SHORTCUT} rates=1e-3+2e-3 ;;
      esac
      for use in ${USE:-probe finetune}; do
        config=$use:decoder=$kind,labels=$labels,steps=$length,batch=${BATCH:-16},seed=$seed
        config+=,block=${BLOCK:-last} from=(--config.init_from="$runs/$size/pretrain/$start")
        [ "$start" != random ] || config+=,shape_from=$runs/$size/pretrain/gen-0 from=()
        if [ "$use" = probe ]; then config+=,rates=$rates
        elif [ "$start" = random ]; then config=${config/finetune/scratch}; fi
        main --config="$config" "${from[@]}" --config.data.train="$records/$2" \
          --workdir="$runs/readers/$2/$decoder${BLOCK:+_$BLOCK}/$use-${START:+${START%-*}-}$seed"
      done; done ;;
  bench) for size in cnn cnn48; do
      "$python" -m dig_jax.tools.perf.bench_reader --config="scratch:size=$size"; done ;;
  table) shopt -s nullglob; for folder in "$runs"/*/ "$runs"/ablation/*/*/; do
      [ "$folder" != "$runs/ablation/" ] || continue # its runs differ on purpose: one by one
      echo "== $folder" # groups: printed works, handwritten pages
      "$python" -m dig_jax.tools.results "$folder" --intervals --group_by='^images/(.+)_'; done ;;
  *) "$0" --help; exit 2 ;;
esac
