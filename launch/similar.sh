#!/usr/bin/env bash
# A start from lines rendered in fonts like those of the pages, one core each; done is done.
#   launch/similar.sh fonts KIND           free fonts from the npm registry, into records/fonts
#   launch/similar.sh records KIND         10,000 rendered lines (dig_jax[words]), and the real ones
#   launch/similar.sh train KIND           a reader of the rendered lines
#   launch/similar.sh judge KIND LABELS..  it goes on with real lines: 34, 100, 0.1 (a tenth), 1.0
#   launch/similar.sh self KIND LABELS..   a student learns from that reader's own readings, too;
#                                          LABELS 0: no real label at all
#   launch/similar.sh again KIND LABELS..  a second round: that student is the teacher
#   launch/similar.sh ngram KIND LABELS..  the same, and an n-gram of its texts helps it to read
#   launch/similar.sh table                prints the tables, with intervals by line and work
# KIND: fraktur (archiscribe) or hands (copiste_hw_fr). SEED, STEPS, RECORDS, RUNS as in strong.sh.
case " $* " in "  " | *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
python=${PYTHON:-.venv/bin/python} records=${RECORDS:-records} runs=${RUNS:-runs/similar}
seed=${SEED:-0}
main() { "$python" -m dig_jax.main "$@"; }

least=0; case $1 in table) ;; judge | self | again | ngram) least=2 ;; *) least=1 ;; esac
[ $# -gt $least ] || { echo "$1 needs $least arguments or more: see --help" >&2; exit 2; }
# Under the Open Font or the Apache License. Those of fraktur have a long s; the first is a type of
# books, drawn after one of 1901.
fraktur=(unifrakturmaguntia unifrakturcook grenze-gotisch manufacturing-consent im-fell-english)
hands=(alex-brush allura annie-use-your-telescope architects-daughter bad-script bilbo-swash-caps
  birthstone carattere caveat cedarville-cursive comforter coming-soon cookie corinthia
  covered-by-your-grace dancing-script dawning-of-a-new-day delicious-handrawn delius
  edu-nsw-act-cursive edu-qld-beginner edu-vic-wa-nt-beginner ephesis euphoria-script fuzzy-bubbles
  gloria-hallelujah gochi-hand grape-nuts great-vibes handlee herr-von-muellerhoff homemade-apple
  indie-flower italianno just-another-hand just-me-again-down-here kalam klee-one kolker-brush
  la-belle-aurore love-light loved-by-the-king luxurious-script mali mansalva marck-script
  mea-culpa montecarlo mynerve nanum-pen-script neucha nothing-you-could-do pangolin parisienne
  patrick-hand petit-formal-script pinyon-script playwrite-br playwrite-cl playwrite-es
  playwrite-hu playwrite-it-trad playwrite-mx playwrite-pl playwrite-us-trad qwigley reenie-beanie
  rouge-script ruthie sacramento satisfy schoolbell sedgwick-ave send-flowers shadows-into-light
  shantell-sans short-stack style-script sue-ellen-francisco sunshiney swanky-and-moo-moo tangerine
  the-girl-next-door waiting-for-the-sunrise whisper yellowtail yomogi zen-kurenaido zeyada)
kind=${2:-}
case $kind in
  fraktur) set=archiscribe names=("${fraktur[@]}") long=1900
    words=(--language=de --long_s --before_1830=0.4) page=(--crowded=0.5 --bitonal=0.7)
    page+=(--tight=0.85 --heavy=0.5 --favour=unifrakturmaguntia --max_words=6) ;;
  hands) set=copiste_hw_fr names=("${hands[@]}") words=(--language=fr) long=2600
    page=(--tight=0.95 --crowded=0.3 --bitonal=0.8 --clean=0.9 --ruled=0.85 --uneven=0.9)
    page+=(--min_words=2 --max_words=9 --height_px=80) ;;
  *) [ "$1" = table ] || { echo "KIND is '$kind': fraktur or hands" >&2; exit 2; } ;;
esac
fonts=$records/fonts/$kind start=$runs/$kind-$seed
steps() { # labels -> steps of fine-tuning
  case $1 in 34) long=500 ;; 100) long=800 ;; esac
  echo "${STEPS:-$long}"
}

case $1 in
  fonts) mkdir -p "$fonts"
    for name in "${names[@]}"; do (
      cd "$fonts"
      compgen -G "$name-*.ttf" > /dev/null && exit
      packed=$(npm pack --silent "@expo-google-fonts/$name")
      mkdir -p "$name" && tar xzf "$packed" -C "$name"
      find "$name" -name '*.ttf' | while read -r file; do
        mv "$file" "$name-$(basename "$file")"; done # in folders of their own, or in none
      rm -r "$name" "$packed"
    ); done
    [ "$kind" != fraktur ] || "$python" -m dig_jax.tools.small_e --fonts="$fonts" ;;
  records)
    [ -d "$records/$set" ] || "$python" -m dig_jax.tools.make_records --source=folder \
      --input="../shared/data/$set" --output="$records/$set"
    [ -f "$fonts/words.txt" ] ||
      "$python" -m dig_jax.tools.word_list "${words[@]}" --output="$fonts/words.txt"
    [ -d "$records/$kind" ] || "$python" -m dig_jax.tools.make_records --source=lines --seed=1 \
      --input="$fonts/words.txt" --fonts="$fonts" "${page[@]}" \
      --splits=train=10000,validation=300 --output="$records/$kind" ;;
  train)
    config=scratch:size=cnn48,patch=32x4,head=bilstm2,batch=16,steps=${STEPS:-1600},seed=$seed
    main --config="$config" --config.data.train="$records/$kind" --workdir="$start" \
      --config.evals.recognition.datasets="$records/$set@validation,$records/$kind@validation" ;;
  judge) for labels in "${@:3}"; do
      config=finetune:reader,labels=$labels,steps=$(steps "$labels"),seed=$seed both=()
      case $labels in # so few lines lack letters, which a reader of them alone forgets
        34) config+=,batch=16 both=(--config.data.rehearse="$records/$kind") ;;
        100) both=(--config.data.rehearse="$records/$kind") ;;
      esac
      main --config="$config" "${both[@]}" --config.init_from="$start" \
        --config.data.train="$records/$set" \
        --workdir="$runs/$set/$labels/$kind-$seed"; done ;;
  self | again | ngram) for labels in "${@:3}"; do # again, ngram: the first student is the teacher
      folder=$runs/$set/$labels name=self search=()
      model=$folder/$kind-$seed truth=(--first="$folder/$kind-$seed")
      [ "$labels" != 0 ] || model=$start truth=(--lines="$records/$set")
      [ "$1" = self ] || model=$folder/${kind}_self-$seed name=self2
      [ "$1" != ngram ] || name=ngram search=(--beam=8 --lm=5 --lm_weight=0.3 --lm_bonus=0.6
        --texts="$records/self-$set-$labels-$seed,$records/$kind")
      own=$records/$name-$set-$labels-$seed
      [ -d "$own" ] ||
        "$python" -m dig_jax.tools.pseudo_label --model="$model" "${truth[@]}" "${search[@]}" \
          --output="$own"
      main --config="finetune:reader,steps=${STEPS:-1200},seed=$seed" \
        --config.init_from="$start" --config.data.train="$own" \
        --config.evals.recognition.datasets="$records/$set@validation" \
        --workdir="$folder/${kind}_$name-$seed"; done ;;
  table) shopt -s nullglob; for folder in "$runs"/*/*/; do
      compgen -G "$folder*/config.json" > /dev/null || continue
      echo "== $folder" # groups: printed works, handwritten pages
      "$python" -m dig_jax.tools.results "$folder" --intervals --group_by='^images/(.+)_'; done ;;
  *) "$0" --help; exit 2 ;;
esac
