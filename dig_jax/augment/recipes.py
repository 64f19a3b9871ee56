"""Recipes of augmentation: data, by the names that configs know. views.py carries them out.

A recipe is a stage or a sequence of stages, which a line passes in turn. A stage is a dict:
    operators   ((name, {amount: range, ..}), ..), names unique, amounts as in views.OPERATORS
    some_of     (lowest, highest): every line draws how many operators it gets, which, in what order
                (imgaug's SomeOf with random_order; (1, 1) is its OneOf)
                Beside its amounts, "chance": that it is carried out when drawn; absent = 1.
    p           chance that a line gets any of the operators; absent = 1
    jitter      None or torchvision's ColorJitter:
                {"p", "brightness", "contrast", "saturation", "hue"}
    grayscale_p chance of losing all colour at the end
Only one stage may move pixels, so that `max_shift_px` bounds the whole way.
"""

# DiG's contrast branch (reference section 1.7). At 10 degrees the ends of a line wider than 6
# heights leave the image.
DIG = {
    "some_of": (2, 5),
    "operators": (
        ("contrast", {"alpha": (0.5, 1.0)}),
        ("blur", {"sigma": (0.5, 1.5)}),
        ("crop_vertical", {"top": (0.0, 0.3), "bottom": (0.0, 0.3)}),
        ("crop_horizontal", {"left": (0.0, 0.1), "right": (0.0, 0.1)}),
        ("sharpen", {"alpha": (0.0, 0.5), "lightness": (0.0, 0.5)}),
        ("rotate", {"degrees": (-10.0, 10.0)}),
        ("piecewise", {"scale": (0.03, 0.04)}),
        ("perspective", {"scale": (0.05, 0.10)}),
        ("solarize", {"threshold": (32 / 255, 128 / 255), "invert_above_p": 0.5}),
        ("grayscale", {"alpha": (0.0, 1.0)}),
    ),
    "jitter": {"p": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "grayscale_p": 0.2,
}

# For whole text lines and short trainings: nothing that turns ink into paper or moves a letter by
# more than a stroke.
LINES_LIGHT = {
    "some_of": (2, 4),
    "operators": (
        ("contrast", {"alpha": (0.6, 1.0)}),
        ("blur", {"sigma": (0.3, 0.9)}),
        ("crop_vertical", {"top": (0.0, 0.1), "bottom": (0.0, 0.1)}),
        ("shift", {"right_px": (-2.0, 2.0), "down_px": (-1.5, 1.5)}),
        ("noise", {"sigma": (0.01, 0.05)}),
    ),
    "jitter": {"p": 0.8, "brightness": 0.2, "contrast": 0.3, "saturation": 0.2, "hue": 0.05},
    "grayscale_p": 0.2,
}


def _stage(*operators, some_of=None, **more):
    """All of the operators, or some_of them; `more`: p, jitter, grayscale_p."""
    return {
        "some_of": some_of or (len(operators),) * 2,
        "operators": operators,
        "jitter": None,
        "grayscale_p": 0.0,
        **more,
    }


_CONTRAST, _BLUR = ("contrast", {"alpha": (0.5, 1.0)}), ("blur", {"sigma": (0.5, 1.5)})
_SHARPEN = ("sharpen", {"alpha": (0.0, 0.5), "lightness": (0.0, 0.5)})

# SeqCLR's three severities in the authors' later code (reference section 2.3). 2 is like the
# paper's: nothing but contrast, sharpness and warps that keep letters in place. In place of
# PiecewiseAffine that code bends elastically; this is the paper's.
SEQCLR_2 = _stage(
    _CONTRAST,
    _BLUR,
    ("crop_vertical", {"top": (0.0, 0.4), "bottom": (0.0, 0.4)}),
    ("crop_horizontal", {"left": (0.0, 0.02), "right": (0.0, 0.02)}),
    _SHARPEN,
    ("piecewise", {"scale": (0.02, 0.03)}),
    ("perspective", {"scale": (0.01, 0.02)}),
    some_of=(1, 7),
)
# 1, which that code ships: strong colours and grain, no geometry at all. Strengths of emboss are
# ours; "sharpen or a blur" is one of the five alike here, sharpening in half of the cases there.
SEQCLR_1 = (
    _stage(("invert", {}), p=0.5),
    _stage(
        ("channel_shuffle", {"p": 0.35}),
        ("grayscale", {"alpha": (0.0, 1.0)}),
        ("posterize", {"levels": (2.0, 16.0)}),
        ("equalize", {}),
        ("dropout", {"share": (0.0, 0.2), "per_channel_p": 0.5}),
        ("gamma", {"exponent": (0.5, 2.0)}),
        ("brightness", {"factor": (0.5, 1.5)}),
        ("hue_saturation", {"turn": (-0.196, 0.196), "factor": (0.8, 1.2)}),  # +-50 of 255
        ("temperature", {"kelvin": (1100.0, 10000.0)}),
        some_of=(1, 1),
    ),
    _stage(
        _SHARPEN,
        _BLUR,
        ("average", {"size": (2.0, 5.0)}),
        ("median", {}),
        ("motion", {"degrees": (0.0, 180.0)}),
        some_of=(1, 1),
    ),
    _stage(
        ("emboss", {"alpha": (0.0, 1.0), "strength": (0.5, 1.5)}),
        ("noise", {"sigma": (0.0, 0.2)}),
        ("impulse", {"share": 0.1}),
        ("speckle", {"spread": 0.5}),
        some_of=(1, 1),
    ),
)
# 0 is ABINet's augmentation for recognisers: strong geometry in half of the lines, which a bound on
# the way sideways tames. How far its corners move in a perspective is our reading; its canvas grows
# with a turned word, ours does not.
SEQCLR_0 = (
    _stage(
        ("rotate", {"degrees": (-45.0, 45.0)}),
        ("affine", {"times": (0.5, 2.0), "degrees_x": (-45.0, 45.0), "degrees_y": (-15.0, 15.0)}),
        ("perspective", {"scale": (0.0, 0.2)}),
        some_of=(1, 1),
        p=0.5,
    ),
    _stage(
        ("noise", {"sigma": (0.0, 0.0175)}),  # a variance of 20, of 255^2
        ("motion", {"degrees": (0.0, 180.0)}),
        ("rescale", {"factor": (1.0, 4.0)}),
        p=0.25,
    ),
    _stage(jitter={"p": 0.25, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}),
)

# Whole-image contrast (reference sections 4 to 6) for text: no flips, and crops that keep all
# letters, where photographs lose up to 92 % of their area. The rest is the papers'. SimSiam's is
# MoCo v2's; MoCo v3's two views are not alike.
_CROP = _stage(
    ("crop_vertical", {"top": (0.0, 0.2), "bottom": (0.0, 0.2)}),
    ("crop_horizontal", {"left": (0.0, 0.05), "right": (0.0, 0.05)}),
)
_SOFT, _SOLARIZE = (
    ("blur", {"sigma": (0.1, 2.0)}),
    ("solarize", {"threshold": 128 / 255, "invert_above_p": 1.0}),
)


def _colours(brightness, contrast, saturation, hue):
    strengths = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    return _stage(jitter={"p": 0.8, **strengths}, grayscale_p=0.2)


SIMCLR = (_CROP, _colours(0.8, 0.8, 0.8, 0.2), _stage(_SOFT, p=0.5))
MOCOV2 = (_CROP, _colours(0.4, 0.4, 0.4, 0.1), _stage(_SOFT, p=0.5))
MOCOV3_1 = (_CROP, _colours(0.4, 0.4, 0.2, 0.1), _stage(_SOFT))
MOCOV3_2 = (_CROP, _colours(0.4, 0.4, 0.2, 0.1), _stage(_SOFT, p=0.1), _stage(_SOLARIZE, p=0.2))

# What a half of a line suffers in our reading of SimAN: tone and sharpness, nothing that moves a
# pixel.
SIMAN = _stage(
    ("contrast", {"alpha": (0.4, 1.0)}),
    ("blur", {"sigma": (0.3, 1.2)}),
    ("noise", {"sigma": (0.02, 0.1)}),
    _SHARPEN,
    some_of=(1, 3),
    jitter={"p": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    grayscale_p=0.2,
)

# For recognisers of whole lines, trained for many epochs on few labels: every line looks new each
# time. "stretch" changes the width of a line, so this recipe serves recognisers only.
LINES_STRONG = (
    _stage(
        ("stretch", {"times": (0.85, 1.15), "chance": 0.9}),
        ("scale", {"across": 1.0, "down": (0.9, 1.1), "chance": 0.9}),
        ("shear", {"degrees_x": (-11.0, 11.0), "degrees_y": 0.0, "chance": 0.9}),
        ("rotate", {"degrees": (-0.8, 0.8), "chance": 0.9}),
        ("shift", {"right_px": (-2.0, 2.0), "down_px": (-2.0, 2.0), "chance": 0.9}),
        ("elastic", {"reach_px": (0.3, 0.8), "chance": 0.4}),
    ),
    _stage(("morphology", {"grow": (-0.7, 0.7)}), p=0.3),
    _stage(("blur", {"sigma": (0.3, 1.2)}), p=0.3),
    _stage(
        ("contrast", {"alpha": (0.6, 1.4)}),
        ("brightness", {"factor": (0.7, 1.3)}),
        p=0.5,
    ),
    _stage(("noise", {"sigma": (0.01, 0.1)}), p=0.4),
    _stage(("erase", {"half_px": (1.5, 6.0), "grey": (0.0, 1.0)}), p=0.3),
)

# The names that configs know.
RECIPES = {
    "dig": DIG,
    "lines_light": LINES_LIGHT,
    "lines_strong": LINES_STRONG,
    "seqclr_0": SEQCLR_0,
    "seqclr_1": SEQCLR_1,
    "seqclr_2": SEQCLR_2,
    "simclr": SIMCLR,
    "mocov2": MOCOV2,
    "mocov3_1": MOCOV3_1,
    "mocov3_2": MOCOV3_2,
    "siman": SIMAN,
}
