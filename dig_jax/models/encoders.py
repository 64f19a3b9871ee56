"""The encoders, by the name that configs give them.

Both kinds take (image, width, mask, column_offset, deterministic) and give tokens f32[B,N,D] in
reading order, with `patch` px a token: what `vit.frames`, `vit.columns` and `heads.pool_windows`
need to make frames with lengths of them.
"""

from collections.abc import Mapping
from typing import Any

from dig_jax.models import crnn, vit

KINDS = {"vit": vit.Vit, "crnn": crnn.Crnn}


def create(options: Mapping[str, Any]) -> vit.Vit | crnn.Crnn:
    """The module that config.method.encoder describes; kind "vit" unless it says another.
    ValueError for a kind that is not.
    """
    options = dict(options)
    kind = options.pop("kind", "vit")
    if kind not in KINDS:
        raise ValueError(
            f"kind is {kind!r}; set config.method.encoder.kind to one of {', '.join(KINDS)}"
        )
    # A CNN's follows from its layers; configs state it for those who read the tokens.
    patch = tuple(options.pop("patch")) if kind == "crnn" and "patch" in options else None
    module = KINDS[kind](**options)
    if patch not in (None, module.patch):
        raise ValueError(
            f"patch is {patch} and the CNN makes tokens of {module.patch} px: set config.method.encoder.patch so"
        )
    return module


def create_vit(options: Mapping[str, Any]) -> vit.Vit:
    """The same for methods that hide or choose tokens, which only a ViT lets them do. ValueError
    for another kind.
    """
    if options.get("kind", "vit") != "vit":
        raise ValueError(
            f"kind is {options['kind']!r}, and this method needs the tokens of a ViT: set config.method.encoder.kind to vit, "
            "as every size but the crnn ones does"
        )
    return create(options)
