#!/usr/bin/env bash
# What a start is worth on other characters, one core: handwritten numbers and Devanagari.
#   launch/characters.sh records KIND       numbers of real handwritten digits (dig_jax[digits]), or
#                                           rendered Hindi (dig_jax[words]; fonts from npm)
#   launch/characters.sh pretrain KIND      gen on their images alone: the start "own"
#   launch/characters.sh judge KIND START.. 100 labels (Hindi: 400), frozen and fine-tuned, by CTC;
#                                           digits by the glimpse reader, too. START random, own, or
#                                           gen48 (images of Latin lines), print (a reader of them)
#   launch/characters.sh table              prints the table, with intervals by line
#   launch/characters.sh all                everything, on one core
# KIND: digits or devanagari. LABELS, SEED, STEPS; RECORDS and RUNS as in strong.sh. It resumes.
case " $* " in "  " | *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
python=${PYTHON:-.venv/bin/python} records=${RECORDS:-records} runs=${RUNS:-runs/characters}
seed=${SEED:-0} kind=${2:-}
main() { "$python" -m dig_jax.main "$@"; }
least=0; case $1 in table | all) ;; judge) least=2 ;; *) least=1 ;; esac # behind the stage
[ $# -gt $least ] || { echo "$1 needs $least arguments or more: see --help" >&2; exit 2; }
bundle() { # gen48 or print, as a folder to start from
  [ -d "$runs/$1" ] ||
    "$python" -m dig_jax.tools.import_weights --layout=dig_jax --input="$1" --output="$runs/$1"
}
case $kind in
  digits) readers=(ctc glimpse) labels=${LABELS:-100} ;;
  devanagari) readers=(ctc) labels=${LABELS:-400} ;;
  *) case $1 in table | all) ;; *) echo "KIND is '$kind': digits or devanagari" >&2; exit 2 ;; esac
esac
fonts=$records/fonts/devanagari

case $1 in
  records)
    [ ! -d "$records/$kind" ] || exit 0
    if [ "$kind" = digits ]; then
      "$python" -m dig_jax.tools.make_records --source=digits --min_chars=1 --max_chars=6 \
        --splits=train=4000,validation=400 --output="$records/digits"; exit; fi
    mkdir -p "$fonts"
    for name in noto-sans-devanagari noto-serif-devanagari mukta hind poppins baloo-2 kalam \
      rajdhani sarala teko tiro-devanagari-hindi; do (
      cd "$fonts"
      compgen -G "$name-*.ttf" > /dev/null && exit
      packed=$(npm pack --silent "@expo-google-fonts/$name")
      mkdir -p "$name" && tar xzf "$packed" -C "$name"
      find "$name" -name '*400Regular.ttf' -o -name '*700Bold.ttf' | while read -r file; do
        mv "$file" "$name-$(basename "$file")"; done # in folders of their own, or in none
      rm -r "$name" "$packed"
    ); done
    "$python" -m dig_jax.tools.word_list --language=hi --output="$fonts/words.txt"
    "$python" -m dig_jax.tools.make_records --source=lines --input="$fonts/words.txt" --seed=1 \
      --fonts="$fonts" --max_words=3 --tight=0.5 --splits=train=4000,validation=400 \
      --output="$records/devanagari" ;;
  pretrain)
    config=dig:objective=gen,preset=cpu,size=cnn48_lstm,patch=32x4,probe=none,seed=$seed
    main --config="$config,batch=32,steps=${STEPS:-1500}" --config.data.train="$records/$kind" \
      --config.method.encoder.dtype=float32 \
      --workdir="$runs/$kind/own-$seed" ;;
  judge) for start in "${@:3}"; do for reader in "${readers[@]}"; do for use in probe finetune; do
      args=decoder=$reader,shortcut=0,labels=$labels,batch=8,seed=$seed,steps=${STEPS:-800}
      if [ "$reader" = ctc ]; then args+=,head=linear rates=,rates=1e-2+3e-2
      else rates=,rates=1e-3+2e-3; fi
      [ "$use" = probe ] || rates=
      from=$runs/$start
      case $start in
        random) bundle gen48; from= ;; # its shape alone
        own) from=$runs/$kind/own-$seed ;;
        *) bundle "$start" ;;
      esac
      case $start-$use in
        random-probe) config=probe:shape_from=$runs/gen48,$args$rates ;;
        random-finetune) config=scratch:shape_from=$runs/gen48,$args ;;
        *) config=$use:$args$rates ;;
      esac
      main --config="$config" ${from:+--config.init_from="$from"} \
        --config.data.train="$records/$kind" \
        --workdir="$runs/judged/$kind/$reader-$use-$start-$seed"; done; done; done ;;
  table) for kind in digits devanagari; do
      [ ! -d "$runs/judged/$kind" ] ||
        "$python" -m dig_jax.tools.results "$runs/judged/$kind" --intervals; done ;;
  all) for kind in digits devanagari; do
      "$0" records "$kind"; "$0" pretrain "$kind"; "$0" judge "$kind" random own gen48 print; done
    "$0" table ;;
  *) "$0" --help; exit 2 ;;
esac
