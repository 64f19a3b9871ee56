#!/usr/bin/env bash
# Ten minutes on one core, generated lines alone: a bundled reader reads some. Then an encoder is
# pre-trained on images without text, and a reader learns from 100 labels with it and without it.
#   launch/demo.sh [FOLDER]     default runs/demo; running it again resumes, and skips what is done
# SEED: of the pre-training and of the labels that are taken (0).
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
cd "$(dirname "$0")/.."
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
out=${1:-runs/demo} seed=${SEED:-0}
mkdir -p "$out"
out=$(cd "$out" && pwd)
# The second recogniser needs no compiler: its program is that of the first.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-$out/programs}"
few="head=linear,labels=100,steps=300,batch=8,seed=$seed" # of 2,000 lines; both runs alike

say() { printf '\n== %s   [%d:%02d]\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
tool() { python -m "dig_jax.tools.$1" "${@:2}"; }
run() { # folder, config, flags
  python -m dig_jax.main --config="configs/$2" --workdir="$out/$1" "${@:3}" \
    --config.data.train="$out/two_books"
}
few() { # judged by its last weights, as the figures of docs/demo.md
  run "$@" --config.data.buckets_px=2 --config.evals.recognition.every_steps=100 \
    --config.optim.average=None
}

say "1/5  render lines as of two scanned books: $out/two_books"
[ -f "$out/two_books/records.json" ] || tool make_records --source=lines \
  --output="$out/two_books" --splits=train=2000,validation=150 --fonts=bundled --books=2 \
  --min_words=4 --max_words=6

say "2/5  bundled readers: Fraktur of the 19th century, and ten of these lines"
tool show_readings fraktur --output="$out/fraktur.png"
tool show_readings print --records="$out/two_books@validation" --lines=10 --output="$out/print.png"

say "3/5  pre-train the bundled encoder gen48 on the 2,000 images, without any text: $out/gen"
[ -d "$out/gen48" ] || tool import_weights --layout=dig_jax --input=gen48 --output="$out/gen48"
gen=preset=cpu,objective=gen,size=cnn48_lstm,steps=120,batch=32,probe=none,seed=$seed
run gen "pretrain/dig.py:$gen" --config.init_from="$out/gen48" \
  --config.method.encoder.dropout=0.0 --config.optim.warmup_steps=20 --config.optim.lr=5e-4

say "4/5  train a recogniser on 100 labelled lines: from that encoder, and from random weights"
few pretrained "recognize/finetune.py:$few" --config.init_from="$out/gen"
few random "recognize/scratch.py:$few,shape_from=$out/gen"

say "5/5  windows of lines that look alike to the encoder; then compare"
tool show_neighbours "$out/gen" --records="$out/two_books@validation" --lines=100
tool report --output="$out/report.html" "$out"/{pretrained,random,gen}
say "done: $out/report.html"
