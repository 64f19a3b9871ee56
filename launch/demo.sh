#!/usr/bin/env bash
# The main job end to end on generated lines: render, pre-train a micro DiG, read with it and without it, compare.
# Usage: launch/demo.sh [FOLDER]     (default runs/demo; running it again resumes or skips what is done)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/demo}
main="python -m dig_jax.main"

step() { printf '\n== %s\n' "$*"; }

step "1/4 render text lines -> $out/records"
[ -f "$out/records/records.json" ] || python -m dig_jax.tools.make_records --source=lines --output="$out/records" \
  --splits=train=8000,validation=300 --max_words=3 --seed=0

step "2/4 pre-train DiG on the images alone -> $out/dig"
$main --config=configs/pretrain/dig.py:preset=demo --workdir="$out/dig" --config.data.train="$out/records"

data="--config.data.train=$out/records --config.data.validation=$out/records@validation"
step "3/4 train the same recogniser from it and from random weights, on few labels"
for start in dig random; do
  from=$([ $start = dig ] && echo "--config.init_from=$out/dig" || echo "--config.like=$out/dig")
  $main --config=configs/recognize/finetune.py:preset=demo --workdir="$out/finetune_$start" $data $from
  $main --config=configs/recognize/probe.py:preset=demo --workdir="$out/probe_$start" $data $from
done

step "4/4 compare"
python -m dig_jax.tools.report "$out"/{dig,finetune_dig,finetune_random,probe_dig,probe_random} --output="$out/report.html"
echo "checkpoints: $out/dig/checkpoints"
