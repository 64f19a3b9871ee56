#!/usr/bin/env bash
# DiG T / S / B at 32x128 px, patch 4, in the best dtype, on one GPU: which way of running the step
# is fastest, within 9 minutes by the clock.
#   launch/bench_gpu.sh [--dry_run]     --dry_run prints the commands, --tiny runs one toy case
#   launch/bench_gpu.sh --check         every method's loss and gradient beside those of the CPU
# Needs jax with CUDA, flax, optax, numpy, absl and ml_collections; installs nothing. Where
# ml_collections is missing and there is no network: `pip download --no-deps ml_collections
# -d wheels` elsewhere, carry the folder, and it is read from there.
# Each case runs in a process of its own. One that fails or takes too long is reported, and the next
# begins. A JSON line a case, also in $OUT/bench_gpu.jsonl where OUT is set. PYTHON, BUDGET_S (520)
# and CASE_S (150) can be set, too.
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3} budget=${BUDGET_S:-520} limit=${CASE_S:-150} mode=${1:-}
seconds=4
# SIZE-BATCH, then options of the encoder and XLA's flags. The most telling first: one change at a
# time from S-512.
cases=(S-512 S-512+dtype=bfloat16 S-1024 S-512+gelu=tanh B-512 S-512+remat=True+scan=True T-1024
  S-512+attention=xla S-512+scan=True S-1024+remat=True+scan=True S-2048+remat=True+scan=True
  S-512+remat=True S-512+--xla_gpu_enable_triton_gemm=true S-256 T-2048 B-256)
[ "$mode" = --tiny ] && cases=("nano-8,objective=gen+depth=1") seconds=0
keep() { tee -a ${OUT:+"$OUT/bench_gpu.jsonl"}; }
failed() { # case, why
  local line='import json, sys; print(json.dumps(dict(zip(("case", "failed"), sys.argv[1:]))))'
  "$python" -c "$line" "$@" | keep
}

for wheel in wheels/*.whl; do
  [ -e "$wheel" ] && export PYTHONPATH="$PWD/$wheel${PYTHONPATH:+:$PYTHONPATH}"
done
[ "$mode" = --dry_run ] || "$python" -c 'import absl, flax, jax, ml_collections, numpy, optax' || {
  echo "error: a package is missing, see above; the head of $0 says how to bring it" >&2; exit 1; }
[ "$mode" != --check ] || { timeout "$budget" "$python" -m dig_jax.tools.perf.check_device \
  --seconds=$((budget > limit ? budget - limit : 0)) | tee ${OUT:+"$OUT/check_device.txt"}; exit; }
# Compiles in half the time; a card's own library makes the products anyway (docs/performance.md).
export XLA_FLAGS="--xla_gpu_enable_triton_gemm=false${XLA_FLAGS:+ $XLA_FLAGS}"
log=$(mktemp) && trap 'rm -f "$log" "$log.err"' EXIT
for name in "${cases[@]}"; do
  IFS=+ read -r -a options <<< "$name"
  size=${options[0]%-*} batch=${options[0]#*-} flags=""
  config=configs/pretrain/dig.py:preset=words,probe=none,size=$size,batch=$batch
  command=("$python" -m dig_jax.tools.perf.bench_step --split=false)
  command+=("--seconds=$seconds" "--config=$config")
  for option in "${options[@]:1}"; do
    case $option in
      --*) flags+=" $option" ;;
      *) command+=("--config.method.encoder.$option") ;;
    esac
  done
  if [ "$mode" = --dry_run ]; then echo "XLA_FLAGS='$XLA_FLAGS$flags' ${command[*]}"; continue; fi
  left=$((budget - SECONDS))
  if [ "$left" -lt 20 ]; then failed "$name" "no time left"; continue; fi
  XLA_FLAGS="$XLA_FLAGS$flags" timeout $((left < limit ? left : limit)) \
    "${command[@]}" > "$log" 2> "$log.err" < /dev/null
  code=$?
  if [ $code = 0 ]; then tail -n 1 "$log" | sed "s/^{/{\"case\": \"$name\", /" | keep
  else failed "$name" "exit code $code: $(tail -n 1 "$log.err" | tail -c 300)"; fi
done
