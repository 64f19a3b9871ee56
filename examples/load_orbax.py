"""The weights of an export to Orbax, by plain Orbax: python examples/load_orbax.py EXPORT"""

import pathlib
import sys

from orbax.checkpoint import v1 as ocp

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit(0)
if len(sys.argv) != 2:
    raise SystemExit(__doc__)
folder = pathlib.Path(sys.argv[1], "weights").resolve()
if not folder.is_dir():
    raise SystemExit(f"there is no folder {folder}: name an export to orbax")
weights = ocp.load(folder)
for part, tree in weights["params"].items():
    print(part, sorted(tree))
