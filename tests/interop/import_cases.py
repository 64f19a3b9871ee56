"""What each project's ViT is made of, for the tests of imports."""

from typing import NamedTuple

WIDTH, HEADS, PATCH, HEIGHT, WIDE = 8, 2, 4, 8, 32
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Case(NamedTuple):
    """position: what our encoder makes of the table."""

    layout: str
    prefix: str
    table: str
    position: str
    pixels: tuple = HALF
    bias: str = "full"
    token: str | None = None
    norm: bool = True
    scale: str | None = None
    others: tuple = ()


CASES = {
    "dig": Case(
        "dig",
        "model.encoder.",
        "flat",
        "flat_1d",
        bias="q and v",
        norm=False,
        others=("model.momentum_encoder.patch_embed.proj.weight", "model.projector.0.weight"),
    ),
    "dig_finetuned": Case(
        "dig",
        "model.encoder.",
        "flat",
        "flat_1d",
        bias="q and v",
        scale="gamma",
        others=("model.decoder.x.weight",),
    ),
    "mocov3": Case(
        "mocov3",
        "state_dict.module.base_encoder.",
        "meshgrid",
        "learned",
        IMAGENET,
        token="read",
        others=(
            "state_dict.module.base_encoder.head.0.weight",
            "state_dict.module.predictor.0.weight",
        ),
    ),
    "mae": Case(
        "mae",
        "model.",
        "square",
        "square_2d",
        token="read",
        others=(
            "model.decoder_embed.weight",
            "model.decoder_blocks.0.norm1.weight",
            "model.mask_token",
        ),
    ),
    "maerec": Case(
        "maerec",
        "state_dict.backbone.",
        "trained",
        "learned",
        IMAGENET,
        token="read",
        others=("state_dict.decoder.trg_word_emb.weight",),
    ),
    "ccd": Case(
        "ccd",
        "teacher.backbone.",
        "trained",
        "learned",
        IMAGENET,
        token="unused",
        others=(
            "student.module.backbone.patch_embed.proj.weight",
            "teacher.backbone.norm_seg.0.weight",
        ),
    ),
    "ssm": Case(
        "ssm",
        "model.",
        "two_d",
        "sincos_2d",
        ([0.0] * 3, [1.0] * 3),
        others=(
            "model.mm_patch_embed.proj.weight",
            "model.decoder_pred.weight",
            "model.prompt_embd.embedding.weight",
        ),
    ),
    "parseq": Case(
        "parseq",
        "encoder.",
        "trained",
        "learned",
        scale="ls",
        others=("text_embed.embedding.weight",),
    ),
}
