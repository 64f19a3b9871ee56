"""Packages that only some sources need, imported where they are used."""

import importlib
from typing import Any


class MissingExtra(RuntimeError):
    """A package that an extra of pyproject.toml brings is not installed."""


def need(module: str, extra: str) -> Any:
    """The module, which the optional dependencies `extra` of pyproject.toml bring.
    MissingExtra that names the command where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise MissingExtra(
            f"this needs the package {name}, which is not installed ({error}): "
            f"pip install 'dig_jax[{extra}]'"
        ) from error
