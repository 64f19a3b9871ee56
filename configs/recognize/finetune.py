"""Fine-tuning: encoder and reader trained together, from a pre-training.

    python -m dig_jax.main --config=finetune:labels=0.1 --config.init_from=PRETRAINED --workdir=DIR
    ... finetune:labels=100,seed=1,steps=1000
    ... finetune:reader,labels=100        a recogniser goes on, with all that it can read
    ... finetune:preset=plain,labels=0.1  no augmentation, a linear reader
    ... finetune:preset=words_cpu         photographed words, squeezed to 32 x 128
    ... finetune:preset=dig               the official DiG recipe: a Transformer reads words
    ... finetune:decoder=transformer,order=first,layer_decay=0.75,drop_path=0.1

preset=dig: 10 epochs of 2.78 M words in batches of 2,048, rate 8e-4, layer decay 0.75, drop path
0.1, six decoder layers. steps= for other sets. Left out of it: the dropout of attention weights.
Not run here.

Encoder, height, channels and records are those of the pre-training, unless given here. `scratch.py`
is the same without the pre-training; compare the two with the same arguments. encoder_lr: the
encoder's rate as a share of lr; layer_decay: what each block's rate is of that of the block behind
it. --config.method.dropout=0.2: of the LSTMs in an encoder such as cnn48_lstm, if not what it was
pre-trained with. --config.data.rehearse=RECORDS: half of each batch are those lines, which a reader
that goes on is not to forget. shortcut: weight of the CTC loss in front of the reader, 0 = none;
by default 0.3 for bilstm2, attention, Transformer and glimpses. block: last, mix, or a number.
order: which lines labels= takes, random or first. teacher: start from the pre-training's averaged
encoder. reader: take over the whole recogniser of init_from, its characters too; new ones stand
behind them. The figure is the lowest validation CER along the run.
"""

from ml_collections.config_dict import placeholder

from dig_jax.configs import common


def get_config(arg=None):
    args = common.fine_tuning_args(arg, teacher=False, reader=False)
    config = common.fine_tuning(args)
    encoder = "teacher/encoder->params/encoder" if args.teacher else "params/encoder"
    config.init_parts = (encoder,)
    config = common.quick(config) if args.quick else config
    if args.reader:
        parts = ["decoder", "head", "block", "shortcut", "teacher"]
        parts += ["preset"] * (args.decoder != "ctc")  # preset=dig brings a decoder of its own
        common.refuse(arg, "reader takes over a whole recogniser", *parts)
        config.init_parts = ("params", "mutable")
        for name in ("heads", "frames", "block", "standardize"):
            config.inherit += (f"method.{name}",)
            if name in config.method:
                del config.method[name]
            config.method[name] = placeholder(object)
    return config
