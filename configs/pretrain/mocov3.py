"""MoCo v3 (arXiv 2104.02057): both views ask a momentum teacher for each other's key.

    python -m dig_jax.main --config=mocov3:preset=cpu,records=records/lines --workdir=DIR
    ... mocov3:preset=cpu,records=PATH,freeze_patch_embed=false
    ... --config.method.window_px=32    windows, as DiG's
    ... mocov3:preset=cpu,records=PATH,block=3,layer_decay=0.65,lr=1e-3,steps=2400
        --config.init_from=runs/gen     contrast after reconstruction, as MIM-Refiner

| preset | what it is | expected; of cpu: docs/results_plain.md |
|---|---|---|
| cpu | a 1 M-parameter network, 128 px crops | contrast 0.62, top-1 0.995 |
| lines | 32 px high lines on an accelerator, random 256 px crops | not run yet |
| words | the official ViT-S recipe on words of 32x128, as many steps as its 300 epochs | not run
yet |

freeze_patch_embed is a rule of the optimiser, which a CNN (size=crnn) does not get: it has no patch
embedding. In words biases and norms decay as well, as the authors' do. method.max_shift_px bounds
the misalignment of windows.
"""

from dig_jax.configs import common

PRESETS = ("cpu", "lines", "words")


def get_config(arg=None):
    args = common.pretraining_args(arg, PRESETS, freeze_patch_embed=True, **common.REFINING)
    config = common.pretraining("mocov3")
    method = config.method
    method.momentum, method.temperature = 0.99, 0.2
    method.recipes, method.max_shift_px = ("lines_light", "lines_light"), 2.0
    method.column_offset_max = common.COLUMN_OFFSET_MAX
    method.projector_width, method.projector_dim, method.predictor_width = 1024, 256, 1024

    if args.preset == "cpu":
        common.cpu(config)
        method.projector_width, method.projector_dim, method.predictor_width = 256, 128, 256
    if args.preset == "words":
        # 1,281,167 images in batches of 4096, 300 epochs of which 40 warm up.
        common.words(config)
        config.batch_size = 4096
        config.total = {"steps": 93600}
        method.encoder.heads = 12  # where other S have 6
        method.recipes = ("mocov3_1", "mocov3_2")
        method.column_offset_max = 0
        method.projector_width, method.predictor_width = 4096, 4096
        config.optim = {"lr": 1.5e-4, "lr_per": 256, "warmup_steps": 12480, "weight_decay": 0.1}
    rest = ("", {"weight_decay": 0.1} if args.preset == "words" else {})
    frozen = common.refining(config, args)
    if args.freeze_patch_embed and not common.is_cnn(args.size or ""):
        frozen += (("^encoder/patch_embed/", {"freeze": True}),)
    config.optim.rules = (*frozen, rest) if frozen or rest[1] else ()
    return common.finished(config, args)
