"""How XLA compiles for users.

The tests take its plainest code instead (conftest.py), which compiles in a third of the time and
rounds otherwise. A test that runs for long, or whose bound is one of rounding, asks for this:
`jax.jit(f, compiler_options=compiled.FOR_USERS)`.
"""

import importlib.metadata

# jaxlib 0.10 can do without its fusion emitters. Later ones know no such switch, and end the process
# that names it.
CHOOSES_EMITTERS = importlib.metadata.version("jaxlib").startswith("0.10.")

FOR_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
} | ({"xla_cpu_use_fusion_emitters": True} if CHOOSES_EMITTERS else {})
