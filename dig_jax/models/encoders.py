"""The encoders, by the name that configs give them.

All kinds take (image, width, mask, column_offset, deterministic) and give tokens f32[B,N,D] in
reading order, with `patch` px a token. `vit.frames`, `vit.columns` and `heads.pool_windows` need no
more to make frames and their lengths.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from dig_jax.models import cnn, crnn, vit

KINDS = {"vit": vit.Vit, "crnn": crnn.Crnn, "cnn": cnn.Cnn}
SIZES = {**vit.SIZES, **crnn.SIZES, **cnn.SIZES}

KERNELS = {"flash": "tpu", "cudnn": "gpu"}  # attention that one platform alone has

# What every encoder has beside its size and patch, at its default in a config.
DEFAULTS = {
    "vit": {
        "mlp_ratio": 4.0,
        "drop_path": 0.0,
        "gelu": "exact",
        "dtype": "auto",
        "attention": "auto",
        "remat": False,
        "scan": False,
        "final_norm": None,
        "class_token": None,
        "flat_columns": None,
    },
    "crnn": {"fiducials": 0, "dtype": "auto"},
    "cnn": {"dtype": "auto"},
}


def kind_of(options: Mapping[str, Any]) -> str:
    """The kind that the options state, or that their size is of; "vit" where they say neither."""
    size = options.get("size")
    by_size = "cnn" if size in cnn.SIZES else "crnn" if size in crnn.SIZES else "vit"
    return options.get("kind") or by_size


def defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a config may set beside what `options` state. What a named size decides is None."""
    return dict.fromkeys(SIZES.get(options.get("size"), ())) | DEFAULTS.get(kind_of(options), {})


def sized(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the numbers that `size` stands for; what they state themselves wins, and
    None states nothing. ValueError for an unknown size."""
    stated = {name: value for name, value in options.items() if value is not None}
    size = stated.pop("size", None)
    if size is None:
        return stated
    if size not in SIZES:
        raise ValueError(
            f"there is no encoder size {size!r}: choose one of {sorted(vit.SIZES)} or "
            f"{sorted({**crnn.SIZES, **cnn.SIZES})}"
        )
    kind = kind_of({"size": size})
    own = {} if kind == "vit" else {"kind": kind, "height_px": 32, "patch": (32, 4)}
    return own | SIZES[size] | stated


def resolve(
    options: Mapping[str, Any], platform: str, compute_capability: str | None = None
) -> dict[str, Any]:
    """The options of an encoder, every "auto" replaced by what suits a device. A pure function.

    platform: "cpu", "gpu" or "tpu". compute_capability: of an NVIDIA card, such as "8.0"; None or
    another text ("gfx90a") where there is none to know. dtype: see `best_dtype`; a ViT on an NVIDIA
    card from 8.0 on also passes its widest results in bfloat16 (docs/performance.md).

    attention by platform and card:

        cudnn   bfloat16 on NVIDIA cards from 8.0 on, with heads whose width is a multiple of 8 up
                to 128 (up to 256 from 9.0 on)
        flash   bfloat16 on TPUs: from 128 tokens on, no weights are stored
        blocks  elsewhere: from 512 tokens on, memory grows with the tokens and not their square
    """
    result, version = dict(options), _version(compute_capability)
    nvidia = platform == "gpu" and version is not None and version >= (8, 0)
    vit = result.get("kind", "vit") == "vit"
    if result.get("dtype", "auto") == "auto":
        best = best_dtype(platform, compute_capability)
        result["dtype"] = "bfloat16_stored" if vit and nvidia else best
    if vit and result.get("attention", "auto") == "auto":
        head = result.get("width", 1) // max(result.get("heads", 1), 1)
        fits = head % 8 == 0 and head <= (256 if nvidia and version >= (9, 0) else 128)
        kernel = "flash" if platform == "tpu" else "cudnn" if nvidia and fits else "blocks"
        result["attention"] = "blocks" if result["dtype"] == "float32" else kernel
    return result


def check_kernel(options: Mapping[str, Any], platform: str) -> None:
    """ValueError where the attention that is stated is a kernel that a platform lacks."""
    name = options.get("attention")
    if _lacks(options, platform):
        raise ValueError(
            f"config.method.encoder.attention is {name!r}, a kernel of {KERNELS[name].upper()}s, "
            f"and this is for a {platform.upper()}: set it to 'auto'"
        )


def readable(options: Mapping[str, Any], platform: str) -> dict[str, Any]:
    """The options with "auto" for a kernel that a platform lacks: weights are read anywhere."""
    return {**options, "attention": "auto"} if _lacks(options, platform) else dict(options)


def _lacks(options: Mapping[str, Any], platform: str) -> bool:
    return KERNELS.get(options.get("attention"), platform) != platform


def best_dtype(platform: str, compute_capability: str | None = None) -> str:
    """bfloat16 on a TPU and on a GPU, but float32 on a CPU and on NVIDIA cards before 8.0."""
    version = _version(compute_capability)
    old = platform == "gpu" and version is not None and version < (8, 0)
    return "float32" if platform == "cpu" or old else "bfloat16"


def _version(compute_capability: str | None) -> tuple[int, ...] | None:
    """ "8.6" -> (8, 6); None for what is no compute capability of NVIDIA's."""
    parts = (compute_capability or "").split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else None


def here() -> tuple[str, str | None]:
    """What `resolve` is told of this machine's first device."""
    return described(jax.local_devices()[0])


def described(device: jax.Device) -> tuple[str, str | None]:
    """(platform, compute capability of an NVIDIA card or None), for `resolve`."""
    return device.platform, getattr(device, "compute_capability", None)


def create(options: Mapping[str, Any]) -> vit.Vit | crnn.Crnn | cnn.Cnn:
    """The module that config.method.encoder describes; kind "vit" unless it says another.

    What is "auto" still is resolved for this machine; an experiment for another one calls `resolve`
    before. ValueError for a kind that is not, an option that the kind has not, or one that lacks.
    """
    options = resolve(sized(options), *here())
    kind = options.pop("kind", "vit")
    if kind not in KINDS:
        raise ValueError(
            f"kind is {kind!r}; set config.method.encoder.kind to one of {', '.join(KINDS)}"
        )
    # A CNN's follows from its layers; configs state it for those who read the tokens.
    patch = tuple(options.pop("patch")) if kind != "vit" and "patch" in options else None
    unknown = options.keys() - KINDS[kind].__dataclass_fields__
    if unknown:
        raise ValueError(
            f"{', '.join(sorted(unknown))}: an encoder of kind {kind} has no such option; "
            "leave it out, or choose another size"
        )
    fields = [field for field in dataclasses.fields(KINDS[kind]) if field.name not in options]
    if lacking := [field.name for field in fields if field.default is dataclasses.MISSING]:
        raise ValueError(
            f"an encoder of kind {kind} lacks {', '.join(lacking)}: state it in "
            "config.method.encoder, or choose a size"
        )
    module = KINDS[kind](**options)
    if patch not in (None, module.patch):
        raise ValueError(
            f"patch is {patch} and the CNN makes tokens of {module.patch} px: "
            "set config.method.encoder.patch so"
        )
    return module


def column_px(options: Mapping[str, Any]) -> int:
    """The width of the columns that an encoder makes tokens of: its patch, stated or a CNN's
    own."""
    return (options["patch"] if "patch" in options else create(options).patch)[1]


def widest_px(encoder: Any) -> int | None:
    """Where the positions of an encoder end: those of a ViT may be of a table. None: nowhere."""
    ends = getattr(encoder, "position", "sincos_2d") != "sincos_2d"
    return encoder.flat_columns * encoder.patch[1] if ends else None


def whole_columns(options: Mapping[str, Any], px: int) -> int:
    """px, up to whole columns of an encoder; where its positions end, what divides that width, too,
    so that a line may be as wide."""
    column = column_px(options)
    ends = options.get("position", "sincos_2d") != "sincos_2d"
    return math.gcd(-(-px // column) * column, widest_px(create(options)) if ends else 0)


def check_dropout(encoder: Any) -> None:
    """ValueError for dropout in front of LSTMs that a CNN does not have. For trainings: what was
    trained so can still read."""
    share = getattr(encoder, "dropout", 0.0)
    if share and not getattr(encoder, "layers", 1):
        raise ValueError(
            f"config.method.dropout (or encoder.dropout) is {share}, and this encoder has no LSTM "
            "to drop values in front of: leave it 0, or set dropout in config.method.heads"
        )


def create_vit(options: Mapping[str, Any]) -> vit.Vit:
    """The same for methods that hide or choose tokens, which only a ViT lets them do. ValueError
    for another kind.
    """
    if (kind := kind_of(options)) != "vit":
        raise ValueError(
            f"kind is {kind!r}, but this method needs the tokens of a ViT: "
            "set config.method.encoder.kind to vit, or choose a ViT's size"
        )
    return create(options)
