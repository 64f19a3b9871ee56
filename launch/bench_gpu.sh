#!/usr/bin/env bash
# DiG T / S / B at 32x128 px, patch 4, bfloat16, on one GPU: which way of running the step is fastest, within 9 minutes by the clock.
#   launch/bench_gpu.sh [--dry_run]       --dry_run prints the commands, --tiny runs one toy case anywhere
# Needs jax with CUDA, flax, optax, numpy, absl and ml_collections; installs nothing. Where ml_collections is missing and there
# is no network: `pip download --no-deps ml_collections -d wheels` elsewhere, carry the folder, and it is read from there.
# Cases run in this order, each in a process of its own; one that fails or takes too long is reported and the next begins.
# A JSON line a case, also in $OUT/bench_gpu.jsonl where OUT is set. PYTHON, BUDGET_S (520) and CASE_S (150) can be set, too.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} budget=${BUDGET_S:-520} limit=${CASE_S:-150} mode=${1:-}
encoder=--config.method.encoder
config() { echo "--config=configs/pretrain/dig.py:preset=words,probe=none,dtype=bfloat16,size=$1,batch=$2"; }
cases() { # name | XLA_FLAGS | flags of bench_step, the most telling first: one change at a time from S at 512
  [ "$mode" = --tiny ] && { echo "tiny||--config=configs/pretrain/dig.py:preset=words,objective=gen,quick $encoder.depth=1"; return; }
  echo "S-512||$(config S 512)"
  echo "S-512-stored||$(config S 512) $encoder.dtype=bfloat16_stored"
  echo "S-512-stored-tanh||$(config S 512) $encoder.dtype=bfloat16_stored $encoder.gelu=tanh"
  echo "S-512-remat-scan||$(config S 512) $encoder.remat=True $encoder.scan=True"
  echo "S-512-xla||$(config S 512) $encoder.attention=xla"
  echo "S-1024-stored||$(config S 1024) $encoder.dtype=bfloat16_stored"
  echo "S-1024||$(config S 1024)"
  echo "B-512||$(config B 512)"
  echo "T-1024||$(config T 1024)"
  echo "S-512-cublas|--xla_gpu_enable_triton_gemm=false|$(config S 512)"
  echo "S-512-scan||$(config S 512) $encoder.scan=True"
  echo "S-1024-remat-scan||$(config S 1024) $encoder.remat=True $encoder.scan=True"
  echo "S-512-remat||$(config S 512) $encoder.remat=True"
  echo "S-2048-remat-scan||$(config S 2048) $encoder.remat=True $encoder.scan=True"
  echo "S-256||$(config S 256)"
  echo "T-2048||$(config T 2048)"
  echo "B-256||$(config B 256)"
}
keep() { tee -a ${OUT:+"$OUT/bench_gpu.jsonl"}; }

if [ "$mode" != --dry_run ]; then
  for wheel in wheels/*.whl; do [ -e "$wheel" ] && export PYTHONPATH="$PWD/$wheel${PYTHONPATH:+:$PYTHONPATH}"; done
  "$python" -c 'import absl, flax, jax, ml_collections, numpy, optax' || {
    echo "error: a package is missing, see above; the head of $0 says how to bring it" >&2; exit 1; }
fi
log=$(mktemp) && trap 'rm -f "$log"' EXIT
while IFS='|' read -r name flags args; do
  command="$python -m dig_jax.tools.bench_step $args --split=false --seconds=4"
  if [ "$mode" = --dry_run ]; then echo "${flags:+XLA_FLAGS=$flags }$command"; continue; fi
  left=$((budget - SECONDS))
  if [ "$left" -lt 20 ]; then echo "{\"case\": \"$name\", \"failed\": \"no time left\"}" | keep; continue; fi
  # shellcheck disable=SC2086  # words of $command and of the flags
  XLA_FLAGS="${XLA_FLAGS:-} $flags" timeout $((left < limit ? left : limit)) $command > "$log" 2> "$log.err" < /dev/null
  code=$?
  if [ $code = 0 ]; then tail -n 1 "$log" | sed "s/^{/{\"case\": \"$name\", /" | keep
  else tail -n 1 "$log.err" | "$python" -c 'import json, sys
print(json.dumps({"case": sys.argv[1], "failed": f"exit code {sys.argv[2]}: {sys.stdin.read().strip()[-300:]}"}))' "$name" "$code" | keep; fi
  rm -f "$log.err"
done < <(cases)
