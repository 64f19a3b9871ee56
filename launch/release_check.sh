#!/usr/bin/env bash
# Is the package fit to be released? The wheel goes into an empty environment, and the demo runs it.
#   launch/release_check.sh [--no_demo]    --no_demo: install, open the programs, read one line
# PYTHON: the interpreter that builds (needs setuptools); default .venv/bin/python. KEEP=DIR keeps
# what was made. Needs the package registry, 2 GB of disk and, with the demo, about 12 minutes.
case " $* " in *" --help "* | *" -h "*) # prints the lines above
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit ;; esac
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
case $python in /*) ;; */*) python=$PWD/$python ;; esac
out=${KEEP:-$(mktemp -d)}
[ -n "${KEEP:-}" ] || trap 'rm -rf "$out"' EXIT
mkdir -p "$out/source" "$out/empty/launch"
say() { printf '\n== %s\n' "$*"; }

say "1/4  the wheel"  # of a copy, so that no build folder is left in the checkout
cp -R "$root"/{dig_jax,configs,pyproject.toml,README.md,LICENSE} "$out/source"
"$python" -m pip wheel --no-deps --no-build-isolation -q -w "$out" "$out/source"

say "2/4  an empty environment, with the pinned versions"
"$python" -m venv --clear "$out/venv"
"$out/venv/bin/python" -m pip install -q --disable-pip-version-check \
  -c "$root/requirements.txt" "$out"/dig_jax-*.whl
"$out/venv/bin/python" -m pip check

say "3/4  the programs, from an empty folder"
cd "$out/empty"
unset PYTHONPATH
export PATH="$out/venv/bin:$PATH"
python -c 'import dig_jax; print(dig_jax.__version__, dig_jax.__file__)'
dig-jax | head -n 3
for name in train predict export; do dig-jax "$name" --help > /dev/null; done
dig-jax records --source=lines --splits=train=16,validation=4 --fonts=bundled --max_words=1 \
  --output=records | tail -n 1
dig-jax train --config=scratch:records=records,quick --workdir=run
dig-jax predict --model=run records@validation --output=readings.tsv
[ "$(wc -l < readings.tsv)" -eq 5 ] # a heading and four lines

case " $* " in *" --no_demo "*) say "4/4  the demo: left out" ;; *)
  say "4/4  the demo, by the wheel alone"
  cp "$root/launch/demo.sh" launch/ # it goes to the folder above its own: the empty one
  launch/demo.sh runs/demo
  [ -s runs/demo/report.html ] ;;
esac
say "release check passed"
