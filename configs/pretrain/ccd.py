"""CCD (arXiv 2211.00288): self-distillation between the characters of two views.

    python -m dig_jax.main --config=ccd:preset=cpu,records=records/lines --workdir=DIR
    ... ccd:preset=lines,records=PATH,size=B
    ... ccd:preset=cpu --config.method.kmeans_frac=1   k-means to the end

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | distillation 0.68, segmentation 0.077 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the authors' S: words of 32x128, batch 256, 3 passes over 33 M images | not run here |

The authors fine-tune the teacher: recognise with
--config.init_parts='("teacher/encoder->params/encoder",)'. words differs from theirs in positions,
which are sines. lines and cpu slant and turn less, since lines are wide, and move the teacher
faster, since they are short. They take smaller components, since letters of a line are smaller than
those of a word image.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS)
    config = common.pretraining("ccd")
    method = config.method
    method.characters, method.min_area_px = 32, 12
    method.recipe = "lines_light"
    method.affine = {"scale_x": (0.8, 1.1), "scale_y": (0.8, 1.1), "degrees": (-1.5, 1.5)}
    method.affine.update(shear_x=(-20.0, 20.0), right=(-0.02, 0.02), down=(-0.05, 0.05))
    method.prototypes, method.momentum = 4096, 0.996
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.projector_width, method.projector_dim, method.decoder_width = 1024, 256, 128

    if args.preset == "cpu":
        common.cpu(config)
        config.optim.lr = 2e-3
        method.characters, method.prototypes = 16, 1024
        method.projector_width, method.projector_dim = 256, 128
    if args.preset == "words":
        common.words(config)
        config.total = {"epochs": 3.0}
        method.encoder.drop_path = 0.1
        method.characters, method.min_area_px = 26, 30
        method.recipe = "dig"
        del method.affine
        method.prototypes, method.momentum = 65536, 0.9995
        method.column_offset_max = 0
        method.projector_width = 2048
        config.optim = {"lr": 5e-4, "lr_per": 256, "min_lr": 1e-6, "warmup_steps": 39062}
        config.optim.update(weight_decay=0.04, weight_decay_end=0.4, clip_norm_each=3.0)
    # The authors' last layer has no gradient at first, and the length of its rows decays as well.
    last = {"freeze_frac": 0.01, "weight_decay": config.optim.weight_decay}
    config.optim.rules = (("^projector/(prototypes|scale)$", last), ("", {}))
    return common.finished(config, args)
