"""How other projects name and use the weights of their ViTs: facts, one entry a project.

Read in the projects' own files (../shared/reference/methods.md 1.1, 5.2, 8, 10.1, 11.2, 12):
ayumiymk/DiG, facebookresearch/moco-v3 and mae, Mountchicken/Union14M, TongkunGuan/CCD,
FaltingsA/SSM, baudm/parseq.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# Pixels of 0 to 1 become (x - mean) / std.
PIXELS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
# Parts of names that only say how a checkpoint was packed.
CONTAINERS = ("model", "state_dict", "module")
HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Layout:
    """prefixes: of the encoder's names, without containers; the first that is there is taken.

    pixels: a name in PIXELS. trained_px: height and width of its images. beside: pattern of names
    under the prefix that belong to other parts of the network. codes: position codes of a file that
    holds no table. heads: {width: number}, where heads are not HEAD_WIDTH wide. norm_may_lack: the
    project drops the final norm in pre-training.
    """

    prefixes: tuple[str, ...]
    pixels: str
    trained_px: tuple[int, int] = (32, 128)
    beside: str = r"$^"
    codes: str | None = None
    heads: Mapping[int, int] = dataclasses.field(default_factory=dict)
    norm_may_lack: bool = False


LAYOUTS = {
    # No class token; the table is a plain tensor, so no file has it; final norm only without
    # contrast.
    "dig": Layout(("encoder.",), "half", codes="flat_1d", norm_may_lack=True),
    # 12 heads in its small size, too. The table is in the file, in an order of its own.
    "mocov3": Layout(
        ("base_encoder.",),
        "imagenet",
        (224, 224),
        r"head\.",
        heads={384: 12, 768: 12, 1024: 16, 1280: 16},
    ),
    # The table of Union14M is that of a square of 16 x 16; mask_token is the decoder's.
    "mae": Layout(("",), "half", beside=r"decoder_|mask_token$"),
    # What MMOCR fine-tunes: the table is trained, pixels are those of ImageNet.
    "maerec": Layout(("backbone.",), "imagenet", beside=r"(head|fc_norm)\."),
    # A class token is stored and never read; the teacher is what its authors go on with.
    "ccd": Layout(
        ("teacher.backbone.", "backbone.", "student.backbone."),
        "imagenet",
        beside=r"(norm_seg|head|fc)\.",
    ),
    # The averaged teacher stands beside the encoder under names that begin with mm_.
    "ssm": Layout(
        ("", "encoder."),
        "unit",
        beside=r"(mm_|decoder|prompt_emb|projection_layer|predictor|patch_extractor|"
        r"student_norm|teacher_norm|mask_token$|head\.|text_embed|pos_queries)",
    ),
    "parseq": Layout(("encoder.",), "half"),
}
OWN = Layout(("",), "half", norm_may_lack=True)  # what interop/torch.py writes
