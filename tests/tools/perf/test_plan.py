"""plan: what a program holds, does and sends, against what is placed, against closed formulas and
in all of XLA's notations.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dig_jax import sharding
from dig_jax.configs.pretrain import dig
from dig_jax.models import encoders
from dig_jax.tools.perf import compilers, hlo, plan, remedies, targets, workload
from dig_jax.tools.perf.devices import DEVICES
from dig_jax.train import command_line

ROOT = pathlib.Path(__file__).parents[3]
DEPTH, WIDTH, ROWS = 6, 64, 32


def scanned(w, x):
    """A step on DEPTH stacked matrices."""

    def loss(w):
        return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0] ** 2)

    return w - jax.grad(loss)(w)


def compiled(spec, **sizes):
    mesh = sharding.make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    w = jax.ShapeDtypeStruct((DEPTH, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, spec))
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=sharding.batch_sharding(mesh))
    return hlo.summarize(jax.jit(scanned, out_shardings=w.sharding).lower(w, x).compile().as_text())


def test_loops_count_their_turns():
    """Three products a matrix, half the rows each: XLA's own cost analysis counts one turn of the
    two loops.
    """
    summary = compiled(P(), data=2)
    assert (
        summary.flops == 3 * DEPTH * 2 * (ROWS // 2) * WIDTH**2
        and summary.loops_of_unknown_length == 0
    )
    # Every turn reads a matrix forwards, reads it and writes its gradient backwards.
    assert 3 * DEPTH * WIDTH**2 * 4 < summary.traffic < 30 * DEPTH * WIDTH**2 * 4


def test_collectives_of_data_and_fsdp():
    """Copied matrices: their gradients are summed, whether in the loop or after it. Matrices cut in
    two: gathered forwards and backwards, and the gradient is summed and scattered."""
    bytes_ = DEPTH * WIDTH**2 * 4
    copied = hlo.by_kind(compiled(P(), data=4).collectives)
    assert set(copied) == {"all-reduce"} and copied["all-reduce"][1] == pytest.approx(
        2 * 3 / 4 * bytes_, rel=0.01
    )
    cut = hlo.by_kind(compiled(P(None, "fsdp"), fsdp=2).collectives)
    assert cut["all-gather"] == (2 * DEPTH, pytest.approx(2 * bytes_ / 2))
    assert cut["reduce-scatter"] == (DEPTH, pytest.approx(bytes_ / 2))


GROUPS = {
    "replica_groups={{0,1},{2,3}}, x": [(0, 1), (2, 3)],
    "replica_groups=[2,4]<=[8], x": [(0, 1, 2, 3), (4, 5, 6, 7)],
    "replica_groups=[4,2]<=[2,4]T(1,0), x": [(0, 4), (1, 5), (2, 6), (3, 7)],
    "replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'c'}, x": [
        (0, 2, 4, 6),
        (1, 3, 5, 7),
    ],
    "replica_groups=mesh['a'=2,'b'=4] {'a'}, x": [(0, 4), (1, 5), (2, 6), (3, 7)],
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_in_each_notation(text):
    assert hlo._groups(text) == GROUPS[text]


TEXT = """HloModule hand_written, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%slicing (p: f32[100,8], i: s32[]) -> f32[1,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,8}
}

ENTRY %main (x: f32[100,8], i: s32[]) -> (f32[1,8], f32[8,8]) {
  %x = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %cut = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%slicing
  %half = bf16[100,8]{1,0} convert(%x)
  %dot = f32[8,8]{1,0} dot(%half, %half), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  %start = (f32[8,8]{1,0}, f32[8,8]{1,0}) all-reduce-start(%dot), replica_groups=[2,4]<=[8], to_apply=%add
  %done = f32[8,8]{1,0} all-reduce-done(%start)
  %sent = f32[8,8]{1,0} collective-permute(%done), source_target_pairs={{0,1},{1,0}}
  ROOT %both = (f32[1,8]{1,0}, f32[8,8]{1,0}) tuple(%cut, %sent)
}
"""


def test_a_program_by_hand():
    summary = hlo.summarize(TEXT)
    assert summary.flops == 2 * 8 * 8 * 100
    kinds = {c.kind: c for c in summary.collectives}
    assert kinds["all-reduce"].bytes == 256 and kinds["all-reduce"].sent == 2 * 3 / 4 * 256
    assert kinds["collective-permute"].sent == 256 and kinds["collective-permute"].group == (0, 1)
    slices, convert, dot = 2 * 32 + 4, 3200 + 1600, 2 * 1600 + 256
    assert summary.traffic == slices + convert + dot + 3 * 256 + 2 * 256
    with pytest.raises(ValueError, match="no HLO module"):
        hlo.summarize("nothing")


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 8, 6, 3), {"padding": "SAME"}),
        ((2, 9, 6, 3), {"window_strides": (2, 1), "padding": ((1, 2), (0, 0))}),
        (
            (2, 8, 6, 3),
            {"padding": ((0, 1), (2, 0)), "lhs_dilation": (2, 1), "rhs_dilation": (1, 2)},
        ),
        ((2, 8, 6, 4), {"padding": "SAME", "feature_group_count": 2}),
    ],
)
def test_convolutions_count_what_xla_counts(shape, options):
    features = shape[-1] // options.get("feature_group_count", 1)
    of = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (3, 3, features, 4))]
    options = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    lowered = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, **options)).lower(*of)
    counted = hlo.summarize(lowered.as_text(dialect="hlo")).flops
    assert counted == lowered.cost_analysis()["flops"] > 0


def test_a_batch_of_products_that_is_written_as_a_convolution():
    rest = "window={size=4x2 stride=3x1 lhs_dilate=4x2}, dim_labels=0b1f_0o1i->01bf"
    shapes = "f32[4,256,2,32]", "f32[4,256,2,32]", "f32[4,2,256,256]"
    assert hlo._multiply_adds(*shapes, rest) == 4 * 2 * 256 * 256 * 32


LOOP = """HloModule loop

%turn (s: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %s = (s32[], f32[8,8]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,8] get-tuple-element(%s), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %dot = f32[8,8] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[8,8]) tuple(%next, %dot)
}

%goes (s.1: (s32[], f32[8,8])) -> pred[] {
  %n = s32[]{:T(128)} constant(28)
  %s.1 = (s32[], f32[8,8]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (x.1: f32[8,8]) -> f32[8,8] {
  %x.1 = f32[8,8] parameter(0)
  %zero = s32[] constant(0)
  %start = s32[] copy(%zero)
  %t.1 = (s32[], f32[8,8]) tuple(%start, %x.1)
  %loop = (s32[], f32[8,8]) while(%t.1), condition=%goes, body=%turn
  ROOT %y = f32[8,8] get-tuple-element(%loop), index=1
}
"""


def test_a_loop_that_the_tpu_compiler_leaves_without_a_count():
    summary = hlo.summarize(LOOP)
    assert summary.flops == 28 * 2 * 8**3 and summary.loops_of_unknown_length == 0
    for change in (("constant(0)", "constant(3)"), (" add(", " multiply("), ("=LT", "=NE")):
        summary = hlo.summarize(LOOP.replace(*change))
        assert summary.flops == 2 * 8**3 and summary.loops_of_unknown_length == 1


def test_what_stays_on_the_chip_moves_nothing_through_main_memory():
    outside = hlo.summarize(TEXT).traffic
    text = TEXT.replace("%half = bf16[100,8]{1,0}", "%half = bf16[100,8]{1,0:T(8,128)S(1)}")
    assert outside - hlo.summarize(text).traffic == 3 * 1600  # written once, read twice


ASYNC = """HloModule asynchronous

%slicing (p: f32[32,8]) -> f32[4,8] {
  %p = f32[32,8]{1,0} parameter(0)
  ROOT %cut = f32[4,8]{1,0} slice(%p), slice={[0:4], [0:8]}
}

ENTRY %main (x: f32[32,8]) -> f32[4,8] {
  %x = f32[32,8]{1,0:T(8,128)} parameter(0)
  %copy = (f32[32,8]{1,0:T(8,128)S(1)}, f32[32,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %copied = f32[32,8]{1,0:T(8,128)S(1)} copy-done(%copy)
  %part = ((f32[32,8]{1,0:T(8,128)}), f32[4,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x)
  %parted = f32[4,8]{1,0:T(8,128)S(1)} slice-done(%part)
  %call = ((f32[32,8]{1,0}), f32[4,8]{1,0}, u32[]) async-start(%x), calls=%slicing
  ROOT %called = f32[4,8]{1,0} async-done(%call)
}
"""


def test_a_copy_beside_the_work_moves_its_bytes_once():
    """A TPU fills its memory on the chip by copies and slices that start and end apart."""
    copy, onto_the_chip, from_main_to_main = 32 * 8 * 4, 4 * 8 * 4, 2 * 4 * 8 * 4
    assert hlo.summarize(ASYNC).traffic == copy + onto_the_chip + from_main_to_main
    kept = ASYNC.replace("((f32[32,8]{1,0:T(8,128)})", "((f32[32,8]{1,0:T(8,128)S(1)})")
    assert hlo.summarize(kept).traffic == copy + from_main_to_main, "nothing leaves the chip"


NESTED = """HloModule nested

%inner (a: f32[12,8], i: s32[]) -> f32[1,8] {
  %a = f32[12,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,8}
}

%outer (b: f32[12,8], j: s32[]) -> f32[1,8] {
  %b = f32[12,8]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %same = f32[12,8]{1,0} bitcast(%b)
  ROOT %fused = f32[1,8]{1,0} fusion(%same, %j), kind=kLoop, calls=%inner
}

ENTRY %main (x: f32[12,8], k: s32[]) -> f32[1,8] {
  %x = f32[12,8]{1,0} parameter(0)
  %k = s32[] parameter(1)
  ROOT %y = f32[1,8]{1,0} fusion(%x, %k), kind=kLoop, calls=%outer
}
"""


def test_a_fusion_within_a_fusion_reads_a_slice():
    """As a TPU's program reads one block of a stack: never the whole stack."""
    number, cut = 4, 8 * 4
    assert hlo.summarize(NESTED).traffic == number + 2 * cut
    whole = NESTED.replace("fusion(%same, %j), kind=kLoop, calls=%inner", "reduce(%b)")
    assert hlo.summarize(whole).traffic == 12 * cut + cut, "no number is read then"
    twice = NESTED.replace("fusion(%same, %j)", "fusion(%b, %b)").replace("i: s32[]", "i: f32[]")
    twice = twice.replace("dynamic-slice(%a, %i, %zero)", "add(%a, %i)")
    assert hlo.summarize(twice).traffic == 12 * cut + cut, "one operand in two places"


def weak(name, devices):
    config = command_line.load(f"{name}:preset=cpu,quick")
    config.batch_size, config.method.encoder.depth = 8 * devices, 1
    return plan.make(config.to_dict(), {"data": devices}, DEVICES["v5e"])


@pytest.mark.slow
def test_a_device_does_the_same_work_on_every_number_of_devices():
    """Weak scaling: eight rows a device. What comes with the devices is the sum of gradients."""
    one, eight = weak("mae", 1), weak("mae", 8)
    assert eight["gflop_a_device"] == pytest.approx(one["gflop_a_device"], rel=0.02)
    assert eight["bytes"]["total"] == pytest.approx(one["bytes"]["total"], rel=0.02)
    sent = sum(kind["bytes"] for kind in eight["collectives"].values())
    assert sent == pytest.approx(2 * 7 / 8 * eight["bytes"]["params"], rel=0.02)
    # A gradient is read and written once more where it is summed.
    moved = 2 * sum(kind["bytes"] for kind in eight["collectives"].values()) / (2 * 7 / 8)
    assert eight["traffic_bytes"] - moved == pytest.approx(one["traffic_bytes"], rel=0.02)


def quick(**changes):
    config = dig.get_config("preset=cpu,objective=dis,quick")
    config.update_from_flattened_dict({"data.width_px": 64, "method.encoder.depth": 1, **changes})
    return config.to_dict()


@pytest.mark.slow
def test_bytes_of_a_device_are_those_that_are_placed():
    cfg, sizes = quick(), {"data": 2, "fsdp": 2}
    figures = plan.make(cfg, sizes, DEVICES["v5e"])
    work = workload.open_workload({**cfg, "mesh": sizes}, devices=jax.devices()[:4])
    mesh = work.mesh
    raw = sharding.to_global(workload.fill(work.data.raw), mesh)
    state = jax.jit(work.create, out_shardings=work.shardings)(raw)
    first = mesh.devices.flat[0]
    placed = lambda tree: sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    for part, tree in (
        ("params", state.params),
        ("teacher", state.teacher),
        ("opt_state", state.opt_state),
        ("batch", raw),
    ):
        assert figures["bytes"][part] == placed(tree) > 0, part
    assert (
        figures["bytes"]["params"]
        < sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)) * 0.75
    )
    assert (
        figures["fits"]
        and figures["try"] == []
        and figures["dtype"] == "bfloat16"
        and figures["devices"] == 4
    )
    assert json.loads(json.dumps(figures)) == figures
    # Every device works on its rows alone: a quarter of all, and little more.
    assert 1 <= 4 * figures["gflop_a_device"] / figures["gflop_analytical"] < 1.3
    assert figures["collectives"]["all-gather"]["bytes"] > 0
    shown = plan.report(figures, "v5e")
    assert "fits" in shown and "DOES NOT" not in shown and figures["binds"] + " (binds)" in shown

    small = dataclasses.replace(DEVICES["v5e"], memory_gb=figures["bytes"]["total"] * 0.9e-9)
    room = small.memory_gb * 1e9
    over = int(figures["bytes"]["total"] - room * 0.9)
    refused = figures | {"fits": False, "memory_bytes": room, "over_bytes": over}
    refused["try"] = remedies.advice(refused, work.config)
    shown = plan.report(refused, "v5e")
    assert (
        "DOES NOT FIT" in shown
        and "does not fit: " in shown
        and "remat=True" in shown
        and "--config.batch_size=" in shown
    )


def test_a_slow_link_binds_where_a_group_leaves_its_node():
    inside, across = (
        hlo.Collective("all-reduce", 10**9, group, 1) for group in ((0, 1, 2, 3), (0, 8))
    )
    summary = hlo.Summary(
        flops=989e12, traffic=4.8e12, collectives=(inside, across), loops_of_unknown_length=0
    )
    seconds = plan.roofline(summary, DEVICES["h200"])
    assert seconds == {"compute": 1.0, "memory": 1.0, "network": pytest.approx(1.5 / 450 + 1 / 50)}


def test_slices_of_tpus():
    shapes = {("v5e", n): s for n, s in ((1, (1, 1)), (2, (2, 1)), (8, (2, 4)), (256, (16, 16)))}
    shapes |= {("v5p", n): s for n, s in ((4, (2, 2, 1)), (8, (2, 2, 2)), (16, (2, 2, 4)))}
    for (device, count), shape in shapes.items():
        assert compilers.topology(device, count) == shape
    with pytest.raises(ValueError, match="--device=h100: --compiler=tpu compiles for v5e"):
        compilers.topology("h100", 8)
    with pytest.raises(ValueError, match="the mesh has 6 devices: TPUs come in slices of a power"):
        compilers.topology("v5e", 6)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_a_sentence_says_what_to_install():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dig_jax\[tpu\]'"):
        compilers.devices("tpu", "v5e", 4)


def plug_in():
    return any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin")))


def test_cards_for_the_gpu_compiler():
    with pytest.raises(ValueError, match="--device=v5e: --compiler=gpu compiles for a100, h100"):
        compilers.devices("gpu", "v5e", 4)
    with pytest.raises(ValueError, match="the mesh has 12 devices: give a multiple of 8"):
        compilers.devices("gpu", "h100", 12)
    assert [targets.capability(card) for card in ("a100", "h200", "v5e")] == ["8.0", "9.0", None]
    assert set(targets.CARDS) <= set(DEVICES)
    text = targets.target("h100", 80, 3350)
    assert "device_memory_size: 80000000000 " in text and "{ major: 9 minor: 0 }" in text
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(plug_in(), reason="the plug-in is here")
def test_without_the_plug_in_a_sentence_says_what_to_install():
    with pytest.raises(ModuleNotFoundError, match=f"jax-cuda12-plugin=={jax.__version__}"):
        compilers.devices("gpu", "h100", 8)


@pytest.mark.skipif(not plug_in(), reason="jax-cuda12-plugin is not installed")
def test_a_card_that_is_not_here_is_compiled_for():
    cards = compilers.devices("gpu", "h100", 8)
    assert len(cards) == 8 and {card.device_kind for card in cards} == {"NVIDIA H100 80GB HBM3"}
    mesh = sharding.make_mesh({"data": 8}, cards)
    x = jax.ShapeDtypeStruct((64, 32), jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
    compiled = jax.jit(lambda x: jnp.sum(x @ x.T)).lower(x).compile()
    assert compilers.describe(compiled).summary.flops >= 2 * 8 * 64 * 32


REFUSED = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(34.45G) exceeds available HBM (15.75G)."
)
OTHERWISE = "RESOURCE_EXHAUSTED: memory space hbm. Used 34.45G of 15.75G hbm. Exceeded hbm"


@pytest.mark.parametrize("said", [REFUSED, OTHERWISE])
def test_a_program_that_the_tpu_compiler_refuses_says_by_how_much(said):
    program = compilers.refused(said, 1.0)
    assert program.over == pytest.approx((34.45 - 15.75) * 2**30, rel=1e-6)
    assert program.temporary == pytest.approx(34.45 * 2**30, rel=1e-6)
    assert compilers.refused("INTERNAL: something else", 1.0) is None


class Lowered:
    """A lowered step whose compiler says REFUSED, or what it is told."""

    def __init__(self, text, error=None):
        self.text, self.error, self.asked = text, error, 0

    def lower(self, state, raw, mesh):
        return self

    def as_text(self):
        return self.text

    def compile(self):
        self.asked += 1
        if self.error:
            raise jax.errors.JaxRuntimeError(self.error)
        return jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile()


def work_of(lowered):
    data = types.SimpleNamespace(raw=None)
    mesh = types.SimpleNamespace(size=1, devices=np.array(jax.devices()[:1]))
    return types.SimpleNamespace(step=lowered, abstract=None, data=data, mesh=mesh)


def test_what_a_compiler_said_is_kept_by_the_program_that_went_in(tmp_path):
    for lowered in (Lowered("a"), Lowered("b", REFUSED)):
        work = work_of(lowered)
        first = compilers.compile_step(work, tmp_path)
        assert compilers.compile_step(work, tmp_path) == first and lowered.asked == 1
    assert first.over and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(jax.errors.JaxRuntimeError):
        compilers.compile_step(work_of(Lowered("c", "INTERNAL: a fault")), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"summary": {}}', "null"])
def test_a_broken_file_of_what_was_said_is_compiled_again(tmp_path, text, capsys):
    work = work_of(Lowered("a"))
    first = compilers.compile_step(work, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text(text)
    assert compilers.compile_step(work, tmp_path).summary == first.summary
    assert f"{kept} is broken: compiled again" in capsys.readouterr().err
    assert compilers.compile_step(work, tmp_path).summary == first.summary
    assert work.step.asked == 2 and list(tmp_path.iterdir()) == [kept]


def test_an_option_that_jax_has_no_more_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(compilers, "EFFORTS", ("jax_of_an_older_release",))
    assert compilers.compile_step(work_of(Lowered("a")), tmp_path).over == 0


@pytest.mark.skipif(not hasattr(jax.config, compilers.EFFORTS[0]), reason="JAX 0.11 has it no more")
def test_a_compiler_told_to_try_less_is_asked_anew(tmp_path):
    lowered, name = Lowered("a"), "jax_exec_time_optimization_effort"
    compilers.compile_step(work_of(lowered), tmp_path)
    jax.config.update(name, -1.0)
    try:
        compilers.compile_step(work_of(lowered), tmp_path)
    finally:
        jax.config.update(name, 0.0)
    assert lowered.asked == 2


def test_without_the_library_of_cudnn_a_sentence_says_what_to_add(monkeypatch):
    def lower(*_, mesh):
        raise RuntimeError("cuDNN not found.")

    work = work_of(Lowered("a"))
    monkeypatch.setattr(Lowered, "lower", lower)
    with pytest.raises(ValueError, match="add --config.method.encoder.attention=blocks"):
        compilers.compile_step(work)


def test_fit_tries_remedies_until_one_is_enough():
    """A step that needs its state, cut over fsdp, and rows that remat halves and parts divide."""

    def make(cfg, sizes):
        encoder = cfg["method"]["encoder"]
        state = 40 / sizes.get("fsdp", 1)
        rows = 64 / cfg.get("accumulate", 1) / (2 if encoder["remat"] else 1)
        asked.append((sizes, encoder["remat"], cfg.get("accumulate", 1)))
        held = {"params": state, "teacher": 0, "opt_state": 0, "mutable": 0, "total": state + rows}
        over = max(state + rows - room, 0)
        return {"bytes": held, "memory_bytes": room, "over_bytes": over, "fits": over == 0} | {
            "accumulates": accumulates
        }

    cfg = {"batch_size": 64, "method": {"encoder": {"remat": False}}}
    asked, room, accumulates = [], 30, True
    figures, tried = remedies.fit(cfg, {"data": 4}, make)
    assert figures["fits"] and asked == [
        ({"data": 4}, False, 1),
        ({"fsdp": 4}, False, 1),
        ({"fsdp": 4}, True, 1),
        ({"fsdp": 4}, True, 2),
    ]
    assert list(tried) == [
        "--mesh=fsdp=4",
        "--config.method.encoder.remat=True (and scan=True)",
        "--config.accumulate=2",
    ]
    accumulates = False  # a loss that compares rows cannot be cut
    assert not remedies.fit(cfg, {"data": 4}, make)[0]["fits"]


def test_hours_of_a_whole_run():
    figures = {"lines_per_s": 1000.0, "lines_per_s_at_most": 2000.0, "devices": 8}
    run = plan.whole_run(figures, records=36e5, epochs=2)
    assert run["hours"] == 2 and run["device_hours"] == 16 and run["hours_at_least"] == 1


def test_a_length_that_is_none_is_a_sentence():
    def check(*given):
        values = flags.FlagValues()
        flags.DEFINE_float("records", 0, "", flag_values=values)
        flags.DEFINE_float("epochs", 1, "", flag_values=values)
        values(["plan", *given])
        plan.check_length(values["records"], values["epochs"])

    check(), check("--records=15e6"), check("--records=2", "--epochs=0.5")
    for given, words in (
        (["--records=-5"], "--records is -5: give a number above 0"),
        (["--records=0"], "--records is 0"),
        (["--records=nan"], "--records is nan"),
        (["--records=1", "--epochs=inf"], "--epochs is inf"),
        (["--epochs=2"], "give both"),
    ):
        with pytest.raises(ValueError, match=words):
            check(*given)


def test_meshes_on_the_command_line():
    assert plan.parse_mesh("data=64,fsdp=4") == {"data": 64, "fsdp": 4} and plan.parse_mesh("") == {
        "data": 1
    }
    for text in ("data", "data=-1", "data=2,data=2", "data=x"):
        with pytest.raises(ValueError, match=f"--mesh={text}: write each axis once"):
            plan.parse_mesh(text)


@pytest.mark.slow
def test_command_line(python):
    command = [
        python,
        "-m",
        "dig_jax.tools.perf.plan",
        "--config=configs/pretrain/dig.py:preset=cpu,objective=gen,quick",
    ]
    command += ["--config.method.encoder.depth=1", "--mesh=data=2,tensor=2", "--device=h200"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (
        figures["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2}
        and figures["device_name"] == "h200"
        and figures["fits"]
    )


@pytest.mark.parametrize("card", targets.CARDS)
def test_auto_means_on_a_card_what_training_there_takes(card):
    vit = {"width": 384, "heads": 6}
    found = encoders.resolve(vit, "gpu", targets.capability(card))
    assert found["dtype"] == DEVICES[card].dtype == "bfloat16_stored"
    cnn = encoders.resolve({"kind": "cnn"}, "gpu", targets.capability(card))
    assert cnn["dtype"] == DEVICES[card].dtype.removesuffix("_stored")
