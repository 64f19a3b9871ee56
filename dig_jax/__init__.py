"""Self-supervised pre-training for text recognition, in JAX.

    reader = dig_jax.load_reader("runs/reader")      # a work folder, an export, a name
    for line in reader.read(["a.png", "b.jpg"]):
        print(line.name, line.text, line.confidence)
    features = dig_jax.load_encoder("runs/dig")(["a.png", "b.jpg"])

Importing dig_jax is cheap: JAX comes with the first model.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that editors and type checkers see what __getattr__ brings
    from dig_jax.load import load_encoder, load_reader

__version__ = "0.1.0"
__all__ = ["load_encoder", "load_reader"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dig_jax import load

        return getattr(load, name)
    raise AttributeError(f"module 'dig_jax' has no {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
