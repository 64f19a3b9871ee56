"""One training step of DiG, ours against the same network in PyTorch: same weights, same batch,
same threads.

    python -m dig_jax.tools.perf.bench_torch --config=dig:preset=cpu [--seconds=30]   both halves
    taskset -c 0 python -m dig_jax.tools.perf.bench_torch     reconstruction alone, one thread each

Needs the extra "torch" (benchmark only). The reconstruction half is encoder and pixel decoder with
the loss on hidden patches. The whole of DiG adds the second view, projectors, predictor, the
momentum teacher and the contrast. Backward pass, clipping and AdamW follow. Both read one augmented
batch, so augmentation is not part of it. PyTorch is given its best: no attention mask (all lines
are full), its fused attention kernel, its fused AdamW; float32, not compiled. Ours is the trainer's
step as it is, once in float32 and once in the dtype that the config states.

First the losses of `STEPS` steps of both are compared, which is the proof that it is the same
network; then the steps take turns. The last line is JSON: medians and spreads (distance of the
quartiles over the median) by the clock and in CPU time of this process. The latter is what to
compare where other programs want the same cores.
"""

import json
import os
import statistics
import time

import jax
import numpy as np
from absl import app, flags, logging

from dig_jax import sharding, trees
from dig_jax.tools import program
from dig_jax.tools.perf import bench_step, workload
from dig_jax.train import command_line
from dig_jax.train.experiment import completed
from dig_jax.train.step import make_train_step

try:
    import torch
    from torch.nn import functional
except ImportError:
    torch = None

FLAGS = flags.FLAGS
STEPS = 3
VIEWS = {"gen": 1, "dig": 2}
MLPS = {"projector": 3, "predictor": 2, "pix_projector": 3}  # their layers
AGREE = 1e-4  # relative difference of two losses in float32


class Block:
    """Pre-norm block on weights named as ours."""

    def __init__(self, weights, heads, gelu):
        self.weights, self.heads, self.gelu = weights, heads, gelu

    def __call__(self, x):
        w = self.weights
        rows, tokens, width = x.shape
        qkv = _norm(x, w, "norm1") @ w["attn/qkv/kernel"]
        query, key, value = qkv.split(width, -1)
        query, value = query + w["attn/q_bias"], value + w["attn/v_bias"]
        heads = (y.view(rows, tokens, self.heads, -1).transpose(1, 2) for y in (query, key, value))
        mixed = (
            functional.scaled_dot_product_attention(*heads)
            .transpose(1, 2)
            .reshape(rows, tokens, width)
        )
        x = x + _dense(mixed, w, "attn/proj")
        hidden = functional.gelu(_dense(_norm(x, w, "norm2"), w, "mlp/fc1"), approximate=self.gelu)
        return x + _dense(hidden, w, "mlp/fc2")


def _dense(x, weights, name):
    bias = weights.get(f"{name}/bias")
    # Kernels stand as [in, out]; addmm reads them so at no cost.
    flat = x.reshape(-1, x.shape[-1])
    kernel = weights[f"{name}/kernel"]
    out = flat @ kernel if bias is None else torch.addmm(bias, flat, kernel)
    return out.view(*x.shape[:-1], -1)


def _mlp(x, weights, name):
    """Dense layers, each with a batch norm of the batch; the last of them has no scale."""
    shape = x.shape
    for i in range(MLPS[name]):
        x = _dense(x, weights, f"{name}/dense_{i}").flatten(0, -2)
        scale, bias = (weights.get(f"{name}/norm_{i}/{part}") for part in ("scale", "bias"))
        x = functional.batch_norm(x, None, None, scale, bias, training=True)
        x = x if i == MLPS[name] - 1 else x.relu()
    return x.view(*shape[:-1], -1)


def _norm(x, weights, name):
    return functional.layer_norm(
        x, x.shape[-1:], weights[f"{name}/scale"], weights[f"{name}/bias"], 1e-6
    )


class Reference:
    """The same step in PyTorch. weights: {path: f32 array}, copied. cfg: the expanded config of
    dig.py, objective "gen" or "dig". rates: learning rate of each step."""

    def __init__(self, weights, cfg, rates):
        encoder, options = cfg["method"]["encoder"], cfg["optim"]
        self.weights = {
            name: torch.tensor(np.asarray(value), requires_grad=True)
            for name, value in weights.items()
        }
        self.method, self.heads = cfg["method"], encoder["heads"]
        self.patch, self.width, self.depth = encoder["patch"], encoder["width"], encoder["depth"]
        self.gelu = "tanh" if encoder["gelu"] == "tanh" else "none"
        self.views = VIEWS[self.method["objective"]]
        self.teacher = {}
        if self.views == 2:
            parts = ("encoder/", "projector/", "pix_projector/")
            self.teacher = {
                name: value.detach().clone()
                for name, value in self.weights.items()
                if name.startswith(parts)
            }
        decayed = [w for name, w in self.weights.items() if w.ndim >= 2]
        plain = [w for name, w in self.weights.items() if w.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": options["weight_decay"]},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=1.0, betas=(options["b1"], options["b2"]), eps=options["eps"], fused=True
        )
        self.rates, self.clip_norm, self.done = rates, options["clip_norm"], 0

    def step(self, batch):
        """One update on {"view1" [B,H,W,1], "mask" [B,N], "column_offset" [B,V]}, with "view2" for
        both halves; the loss before it.
        """
        self.move_teacher()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[min(self.done, len(self.rates) - 1)]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip_norm)
        self.optimizer.step()
        self.done += 1
        return loss.detach()

    def move_teacher(self):
        """m from its start to 1 on a cosine over the run."""
        share = (1 + np.cos(np.pi * self.done / workload.TOTAL_STEPS)) / 2
        momentum = 1 - share * (1 - self.method["momentum"])
        with torch.no_grad():
            for name, value in self.teacher.items():
                value.mul_(momentum).add_(self.weights[name], alpha=1 - momentum)

    def loss(self, batch):
        tokens = self.encode(self.weights, batch)
        loss = self.method["weight_pixel"] * self.pixel_loss(tokens[0], batch)
        if self.views == 1:
            return loss
        q = _mlp(self.project(self.weights, tokens), self.weights, "predictor")
        with torch.no_grad():
            k = self.project(self.teacher, self.encode(self.teacher, batch))
        return loss + self.method["weight_contrast"] * (
            self.info_nce(q[0], k[1]) + self.info_nce(q[1], k[0])
        )

    def encode(self, weights, batch):
        """Tokens [V,B,N,D] of a masked first view and a plain second one, in one pass."""
        images = [batch[f"view{i + 1}"] for i in range(self.views)]
        x = _dense(self.patchify(torch.cat(images)), weights, "encoder/patch_embed")
        x = x.view(self.views, -1, *x.shape[1:])
        hidden = torch.where(batch["mask"][..., None], weights["encoder/mask_token"], x[0])
        x = torch.stack([hidden, *x[1:]])
        offset = batch.get("column_offset")
        each = [None if offset is None else offset[:, i : i + 1] for i in range(self.views)]
        x = x + torch.stack([self.codes(one, images[0].shape) for one in each])
        shape, x = x.shape, x.flatten(0, 1)
        for i in range(self.depth):
            x = Block(_below(weights, f"encoder/block_{i}/"), self.heads, self.gelu)(x)
        return (_norm(x, weights, "encoder/norm") if self.views == 1 else x).view(shape)

    def project(self, weights, tokens):
        """Tokens of two views -> windows [2, B * S, K]; all lines are full."""
        tokens = torch.stack([_mlp(tokens[0], weights, "pix_projector"), tokens[1]])
        each = self.method["window_px"] // self.patch[1]
        tokens = tokens.unflatten(2, (-1, each * self.high)).mean(3)
        return _mlp(tokens.flatten(1, 2), weights, "projector")

    def info_nce(self, q, k):
        temperature = self.method["temperature"]
        product = functional.normalize(q, dim=-1) / temperature @ functional.normalize(k, dim=-1).T
        return 2 * temperature * functional.cross_entropy(product, torch.arange(len(q)))

    def pixel_loss(self, x, batch):
        pixels = self.patchify(batch["view1"])
        x = functional.linear(x, self.weights["pix_decoder/dense_0/kernel"].T)
        x = functional.linear(x, self.weights["pix_decoder/dense_1/kernel"].T)
        x = functional.gelu(_norm(x, self.weights, "pix_decoder/norm"), approximate=self.gelu)
        grey = pixels * 0.5 + 0.5
        variance, mean = torch.var_mean(grey, -1, keepdim=True)
        target = (grey - mean) / torch.sqrt(variance + self.method["target_floor"] ** 2)
        error = _dense(x, self.weights, "pix_decoder/dense_2") - target
        hidden = batch["mask"][..., None].float()
        return (error.square() * hidden).sum() / (hidden.sum() * error.shape[-1])

    def patchify(self, image):
        """[B,H,W,1] -> [B,N,values], tokens column by column."""
        height, width = self.patch
        rows, high, wide, _ = image.shape
        self.high = high // height
        x = image.view(rows, high // height, height, wide // width, width)
        return x.permute(0, 3, 1, 2, 4).reshape(rows, -1, height * width)

    def codes(self, offset, shape):
        """2-D sine and cosine codes, [B or 1, N, D]."""
        high, wide = shape[1] // self.patch[0], shape[2] // self.patch[1]
        quarter = self.width // 4
        frequency = torch.tensor(10000.0 ** (-np.arange(quarter) / quarter), dtype=torch.float32)
        column = torch.arange(wide, dtype=torch.float32)[None, :, None]
        column = column if offset is None else column + offset.float()[:, :, None]
        column, row = torch.broadcast_tensors(
            column, torch.arange(high, dtype=torch.float32)[None, None]
        )
        across, down = column[..., None] * frequency, row[..., None] * frequency
        codes = torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], -1)
        return codes.reshape(codes.shape[0], high * wide, self.width)


def _below(weights, prefix):
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def check(cfg):
    """ValueError for a config whose network is not the one written here."""
    method, encoder = cfg["method"], cfg["method"].get("encoder") or {}
    objective = method.get("objective")
    wanted = {
        "method.name": (method["name"], "dig"),
        "method.objective": (objective, objective if objective in VIEWS else "gen"),
        "method.target": (method.get("target"), "normalized"),
        "method.channels": (method.get("channels"), 1),
        "method.encoder.position": (encoder.get("position"), "sincos_2d"),
        "method.encoder.scan": (encoder.get("scan"), False),
        "method.decoder_blocks": (method.get("decoder_blocks") or 0, 0),
        "method.encoder.drop_path": (encoder.get("drop_path"), 0.0),
        "optim.rules": (tuple(cfg["optim"]["rules"]), ()),
    }
    for key, (value, only) in wanted.items():
        if value != only:
            raise ValueError(
                f"config.{key} is {value!r} and the PyTorch network here has {only!r}: set it so"
            )


def ours(cfg, dtype):
    """(step on an augmented batch, state, augmented batch, learning rates) of the trainer in one
    dtype.
    """
    alone = {**cfg, "mesh": {"data": 1}}
    work = workload.open_workload(alone, {"dtype": dtype})
    raw = sharding.to_global(workload.fill(work.data.raw), work.mesh)
    state, views = jax.jit(work.create)(raw), jax.jit(work.augment)(raw)
    method = work.method
    method.augment = lambda key, batch: batch  # what the step reads is augmented already
    step = make_train_step(method, work.optimizer, work.seed)
    return (
        jax.jit(step, donate_argnums=0).lower(state, views).compile(),
        state,
        views,
        work.optimizer.schedule,
    )


def measure(cfg, seconds):
    """The figures as a dict (see the module). ValueError where the two networks do not agree."""
    cfg = completed({**cfg, "data": {**cfg["data"], "train": "none is read"}})
    check(cfg)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    dtypes = dict.fromkeys(("float32", cfg["method"]["encoder"]["dtype"]))
    dtypes.pop("auto", None)  # float32 on a CPU
    boxes, reference = {}, None
    for dtype in dtypes:
        step, state, views, schedule = ours(cfg, dtype)
        if reference is None:
            rates = jax.jit(schedule)(np.arange(workload.TOTAL_STEPS)).tolist()
            reference = Reference(trees.named_leaves(state.params), cfg, rates)
            batch = {name: torch.tensor(np.asarray(value)) for name, value in views.items()}
        boxes[dtype] = [step, state, views]

    def turn(box):
        box[1], figures = box[0](box[1], box[2])
        return figures["loss"]

    losses = {dtype: [float(turn(box)) for _ in range(STEPS)] for dtype, box in boxes.items()}
    losses["torch"] = [float(reference.step(batch)) for _ in range(STEPS)]
    if not np.allclose(losses["float32"], losses["torch"], rtol=AGREE):
        raise ValueError(
            f"the networks differ, nothing to compare: losses {losses['float32']} and "
            f"{losses['torch']}"
        )
    calls = {"torch": lambda: reference.step(batch)}
    calls |= {
        f"jax_{dtype}": lambda box=box: jax.block_until_ready(turn(box))
        for dtype, box in boxes.items()
    }
    wall, cpu = alternate(calls, seconds)
    base = {"wall": statistics.median(wall["torch"]), "cpu": statistics.median(cpu["torch"])}
    result = surroundings() | {"batch_size": cfg["batch_size"], "losses": losses}
    result["repetitions"] = len(wall["torch"])
    for name in calls:
        times = {"wall": wall[name], "cpu": cpu[name]}
        result[name] = {f"ms_{clock}": 1e3 * statistics.median(t) for clock, t in times.items()}
        result[name] |= {f"spread_{clock}": bench_step.spread(t) for clock, t in times.items()}
        result[name] |= {
            f"speed_{clock}": base[clock] / statistics.median(t) for clock, t in times.items()
        }
    return result


def surroundings():
    """What figures of both depend on: threads, load of the machine, versions."""
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    load = round(os.getloadavg()[0], 1)
    return {"threads": torch.get_num_threads(), "load": load, "versions": versions}


def alternate(calls, seconds):
    """({name: seconds by the clock}, {name: seconds of CPU time}) of calls in turns, at least five
    of each.
    """
    wall, cpu = {name: [] for name in calls}, {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(wall["torch"]) < 5:
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    return wall, cpu


def report(result):
    lines = [
        f"{result['threads']} thread(s), load {result['load']}; first losses {result['losses']}"
    ]
    for name in ("torch", *(key for key in result if key.startswith("jax_"))):
        row = result[name]
        lines.append(
            f"{name:14} {row['ms_wall']:9.1f} ms by the clock ({row['spread_wall']:.0%}), "
            f"{row['ms_cpu']:9.1f} ms of CPU time ({row['spread_cpu']:.0%}); "
            f"{row['speed_wall']:.2f} and {row['speed_cpu']:.2f} times the speed of PyTorch float32"
        )
    return "\n".join(lines)


def compare(argv, name, measure, report):
    """Prints the figures of `measure()` for people, then as JSON; a mistake is one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if torch is None:
        raise SystemExit(
            f"error: {name} compares with PyTorch, which is not installed: pip install "
            "'dig_jax[torch]'"
        )
    try:
        result = measure()
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print(report(result))
    print(json.dumps(bench_step.rounded(result)))


def main(argv):
    timed = lambda: measure(command_line.config().to_dict(), FLAGS.seconds)
    compare(argv, "bench_torch", timed, report)


if __name__ == "__main__":
    command_line.define_config(
        "Config of dig, whole or objective=gen, grey lines.", default="dig:preset=cpu,objective=gen"
    )
    flags.DEFINE_float(
        "seconds", 30.0, "How long to time; compilation not counted.", lower_bound=0.0
    )
    logging.set_verbosity(logging.WARNING)
    program.run(main)
