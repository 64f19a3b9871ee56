"""A recogniser's training step and its reading, beside a plain CRNN in PyTorch: same lines, same
threads.

    python -m dig_jax.tools.perf.bench_reader [--config=scratch:size=cnn] [--width_px=896]
        [--seconds=30]
    taskset -c 0 python -m dig_jax.tools.perf.bench_reader          # one thread each

Needs the extra "torch" (benchmark only). The CRNN is the usual one for text lines: five 3 x 3
convolutions with batch norm and dropout, two bidirectional LSTMs of 192, linear CTC. It has 2.2 M
parameters, AdamW, and lines 32 px high. Ours is the trainer's step of the config, augmentation
included. The networks differ; the batch, the lines' width on paper and the labels do not.

Steps take turns, then readings. The last line is JSON: medians and spreads by the clock and in CPU
time of this process. Compare CPU time where other programs use the same cores.
"""

import os
import statistics

import jax
import numpy as np
from absl import flags, logging
from ml_collections import config_flags

from dig_jax import sharding
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step, bench_torch, workload
from dig_jax.tools.perf.bench_torch import torch

FLAGS = flags.FLAGS
CHANNELS, POOLS = (16, 48, 96, 128, 192), ((2, 2), (2, 2), None, (2, 1), (2, 1))
HIDDEN, CLASSES, HEIGHT_PX, COLUMN_PX = 192, workload.CHARSET.size, 32, 4


class Crnn:
    """The CRNN in PyTorch, its optimiser, and what a step and a reading are."""

    def __init__(self):
        from torch import nn

        layers, before = [], 1
        for features, pool in zip(CHANNELS, POOLS):
            layers += [nn.Conv2d(before, features, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(features), nn.ReLU()]
            layers += [nn.MaxPool2d(pool)] if pool else []
            before = features
        self.cnn = nn.Sequential(*layers, nn.Dropout(0.2))
        self.lstm = nn.LSTM(2 * before, HIDDEN, 2, bidirectional=True, dropout=0.2)
        self.classify = nn.Linear(2 * HIDDEN, CLASSES)
        self.parts = nn.ModuleList([self.cnn, self.lstm, self.classify])
        self.optimizer = torch.optim.AdamW(
            self.parts.parameters(), lr=2e-3, weight_decay=0.01, fused=True
        )
        self.ctc = nn.CTCLoss(zero_infinity=True)

    def logits(self, image):
        """f32[B,1,H,W] -> f32[S,B,V]."""
        x = self.cnn(image).permute(3, 0, 1, 2).flatten(2)
        return self.classify(self.lstm(x)[0])

    def step(self, image, label, lengths):
        self.parts.train()
        self.optimizer.zero_grad(set_to_none=True)
        scores = self.logits(image).log_softmax(-1)
        frames = torch.full((image.shape[0],), scores.shape[0])
        self.ctc(scores, label, frames, lengths).backward()
        torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 5.0)
        self.optimizer.step()

    def read(self, image):
        self.parts.eval()
        with torch.inference_mode():
            return self.logits(image).argmax(-1)


def config_of(config, width_px):
    """The config for lines as wide on paper as `width_px` at a height of 32."""
    cfg = config.to_dict()
    high = cfg["data"]["height_px"] or HEIGHT_PX
    cfg["data"] = {**cfg["data"], "buckets_px": [width_px * high // HEIGHT_PX], "multiple_px": 1}
    return cfg


def ours(cfg):
    """(batch of numpy arrays, one training step, one reading), all compiled."""
    experiment = workload.open_workload(cfg, devices=jax.devices()[:1])
    batch = workload.fill(experiment.data.raw)
    raw = sharding.to_global(batch, experiment.mesh)
    box = [jax.jit(experiment.create)(raw)]

    def step():
        box[0], figures = experiment.step(box[0], raw)
        jax.block_until_ready(figures)

    predict = jax.jit(experiment.method.predict)
    read = lambda: jax.block_until_ready(predict(box[0].params, box[0].mutable, raw))
    step()
    read()
    return batch, step, read


def measure(config, width_px, seconds):
    """The figures as a dict, see the module."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    batch, step, read = ours(config_of(config, width_px))
    rows = len(batch["image"])
    crnn = Crnn()
    image = torch.rand(rows, 1, HEIGHT_PX, width_px)
    label = torch.tensor(batch["label"].astype(np.int64))
    lengths = torch.tensor(batch["label_length"].astype(np.int64))
    steps = {"torch": lambda: crnn.step(image, label, lengths), "jax": step}
    reads = {"torch": lambda: crnn.read(image), "jax": read}
    result = bench_torch.surroundings() | {"batch_size": rows, "width_px": width_px}
    for what, calls in (("step", steps), ("read", reads)):
        calls["torch"]()
        for clock, times in zip(("wall", "cpu"), bench_torch.alternate(calls, seconds)):
            for name, each in times.items():
                figures = result.setdefault(f"{name}_{what}", {})
                figures[f"ms_{clock}"] = 1e3 * statistics.median(each)
                figures[f"spread_{clock}"] = bench_step.spread(each)
                figures[f"lines_per_s_{clock}"] = rows / statistics.median(each)
        cpu = [result[f"{name}_{what}"]["ms_cpu"] for name in ("torch", "jax")]
        result[f"{what}_speed_cpu"] = cpu[0] / cpu[1]
    return result


def report(result):
    lines = [f"{result['threads']} thread(s), load {result['load']}"]
    for what in ("step", "read"):
        for name in ("torch", "jax"):
            row = result[f"{name}_{what}"]
            lines.append(
                f"{name:6} {what:5} {row['ms_cpu']:8.1f} ms of CPU time ({row['spread_cpu']:.0%}), "
                f"{row['lines_per_s_cpu']:6.1f} lines per CPU second"
            )
        lines.append(f"{what}: {result[f'{what}_speed_cpu']:.2f} times the speed of PyTorch")
    return "\n".join(lines)


def main(argv):
    timed = lambda: measure(FLAGS.config, FLAGS.width_px, FLAGS.seconds)
    bench_torch.compare(argv, "bench_reader", timed, report)


if __name__ == "__main__":
    config_flags.DEFINE_config_file(
        "config", "configs/recognize/scratch.py", "Config of a recogniser of lines."
    )
    flags.DEFINE_integer("width_px", 896, "Width of the lines at a height of 32 px.", lower_bound=8)
    flags.DEFINE_float(
        "seconds", 30.0, "How long to time each; compilation not counted.", lower_bound=0.0
    )
    logging.set_verbosity(logging.WARNING)
    program.run(main)
