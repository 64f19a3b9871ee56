#!/usr/bin/env bash
# The main job on generated lines: render, pre-train a micro DiG, read with it and without, compare.
#   launch/demo.sh [FOLDER]     default runs/demo; running it again resumes, and skips what is done
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
cd "$(dirname "$0")/.."
keep=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# A quarter faster on a CPU (docs/performance.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:$keep}"
out=${1:-runs/demo}
few="labels=80,steps=500,batch=16"  # 80 of the 4,000 lines are labelled

say() { printf '\n== %s\n' "$*"; }
run() { python -m dig_jax.main --config="configs/$1" --workdir="$out/$2" "${@:3}"; }

say "1/4  render text lines, as of three scanned books: $out/records"
[ -f "$out/records/records.json" ] || python -m dig_jax.tools.make_records --source=lines \
  --output="$out/records" --splits=train=4000,validation=200 --fonts=bundled --books=3 \
  --min_words=3 --max_words=4 --seed=0

say "2/4  pre-train DiG on their images alone: $out/dig"
run pretrain/dig.py:preset=demo,probe=none dig --config.data.train="$out/records"

say "3/4  train a recogniser on few labelled lines: from DiG and from random weights"
run "recognize/finetune.py:preset=plain,$few" finetuned_from_dig --config.init_from="$out/dig"
run "recognize/scratch.py:preset=plain,$few,shape_from=$out/dig" finetuned_from_random
run "recognize/probe.py:$few" probe_of_dig --config.init_from="$out/dig"
run "recognize/probe.py:$few,shape_from=$out/dig" probe_of_random

say "4/4  compare"
python -m dig_jax.tools.report --output="$out/report.html" \
  "$out"/{finetuned_from_dig,finetuned_from_random,probe_of_dig,probe_of_random,dig}
echo "checkpoints: $out/dig/checkpoints (pre-trained encoder) and $out/*/checkpoints"
