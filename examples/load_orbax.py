"""The weights of an export to Orbax, by plain Orbax: python examples/load_orbax.py EXPORT"""

import pathlib
import sys

from orbax.checkpoint import v1 as ocp

weights = ocp.load(pathlib.Path(sys.argv[1], "weights").resolve())
for part, tree in weights["params"].items():
    print(part, sorted(tree))
