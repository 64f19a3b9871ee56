"""What people get wrong: one sentence with the value, the rule and the key that mends it, before
anything is compiled.

Every case goes through the command line of dig_jax.main, as a user would meet it.
"""

import contextlib
import re
import sys

import grain  # noqa: F401  its flags belong to the real FLAGS, which tests here replace
import jax
import pytest
from absl import flags
from ml_collections import config_flags

from dig_jax import main
from dig_jax.workdir import checkpoint
from tests import toy

COMPILED = []  # names of the programs that JAX has lowered or compiled


def listen(event, seconds, **_):
    if event in (
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    ):
        COMPILED.append(event)


@pytest.fixture(scope="module", autouse=True)
def listening():
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """records (labelled with a and b), bare (unlabelled), other (labelled with c), old (a run on
    records), file.
    """
    root = tmp_path_factory.mktemp("mistakes")
    toy.write_lines(root / "records")
    with contextlib.ExitStack() as stack:
        image = toy.writer.encode_image(jax.numpy.full((8, 24, 1), 9, "uint8").__array__(), "png")
        for name, text in (("bare", None), ("other", "cab")):
            toy.writer.write(
                root / name, iter([("train", image, text, f"{name}{i}") for i in range(9)])
            )
        checkpoints = checkpoint.Checkpoints(str(root / "old"))
        stack.callback(checkpoints.close)
        meta = {
            "config": {"method": {}, "data": {}, "checkpoint": {}},
            "charset": '{"chars": "ab"}',
        }
        checkpoints.save(1, {"params": {"encoder": {"kernel": jax.numpy.ones((8, 5))}}}, {}, meta)
    (root / "file").write_text("not a folder")
    (root / "toy.py").write_text(
        "from tests import toy\n"
        f"RECORDS = {str(root / 'records')!r}\n"
        "def get_config(arg=None):\n"
        "    config = toy.make_config(RECORDS, 2, evals={'toy': {'every_steps': 1}})\n"
        "    if arg == 'lines':\n"
        "        config.data = toy.whole_lines(RECORDS)\n"
        "    return config\n"
    )
    return root


def run(monkeypatch, capsys, *arguments):
    """(exit code, what it said, number of compilations) of `python -m dig_jax.main ARGUMENTS`."""
    values = flags.FlagValues()
    values.append_flag_values(flags.FLAGS)  # Grain reads its own
    values.remove_flag_values(["config", "workdir", "traceback"])
    argv = ["main", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(config_flags.config_flags, "FLAGS", values)
    main.define_flags(values)
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)
    monkeypatch.setattr(main.hosts, "initialize", lambda: None)
    jax.clear_caches()
    COMPILED.clear()
    capsys.readouterr()
    try:
        code = main.main([argv[0], *main.parse(argv)[1:]])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err, len(COMPILED)


TOY, SIMMIM = (
    "--config={root}/toy.py",
    "--config=configs/pretrain/simmim.py:preset=cpu,size=nano,probe=none,batch=8,steps=200",
)
REAL = SIMMIM + ",records={root}/records"
WHOLE = "--config.init_parts=('params',)"
READER = "--config=configs/recognize/probe.py:decoder=ctc"
SCRATCH = "--config=configs/recognize/scratch.py:size=cnn_nano,records={root}/records"

MISTAKES = [
    # the command line
    ((TOY, "--config.optim.lrr=3"), r"config.optim has no key 'lrr': did you mean 'lr'"),
    ((TOY, "--config.optim.learning_rate=3"), r"no key 'learning_rate': did you mean 'lr'"),
    ((TOY, "--config.optim.lr=fast"), r"config.optim.lr=fast"),
    ((TOY, "--config.batch_size=7.5"), r"config.batch_size=7.5"),
    ((TOY, "stray"), r"unexpected argument 'stray': give --config"),
    (("--config=/no/such/file.py",), r"there is no config file /no/such/file.py: Name a file, or one of"),
    (("--config=simclrr",), r"there is no config file simclrr: did you mean simclr\? .*probe"),
    ((), r"--config must"),
    # arguments of a config
    ((SIMMIM + ",sise=S",), r"no argument 'sise': did you mean 'size'"),
    ((SIMMIM + ",steps=many",), r"steps=many: give a number"),
    (("--config=configs/pretrain/simmim.py:preset=gpu",), r"preset=gpu: choose one of"),
    (("--config=configs/pretrain/simmim.py:size=XXL",), r"no encoder size 'XXL': choose one of"),
    ((READER + ",head=lstm",), r"head=lstm: give one of decoder=ctc, .* head=linear, bilstm"),
    (("--config=configs/recognize/finetune.py:labels=1",), r"labels=1: give a share"),
    # folders
    ((TOY, "--workdir={root}/file"), r"--workdir=\S+/file is a file: name a folder"),
    ((TOY, "--workdir=s3://bucket/run"), r"s3://bucket/run is the address of an object store that Orbax cannot save to: name"),
    ((TOY, "--workdir=gs://bucket"), r"gs://bucket names no folder in a bucket: write gs://BUCKET/FOLDER"),
    ((TOY, "--workdir={root}/file/below"), r"--workdir=\S+/file/below cannot be written \(not a directory\): name another"),
    ((TOY, "--config.data.train=/no/such"), r"No record set at /no/such .*make_records"),
    ((TOY, "--config.data.train={root}/records@dev"), r"records has no split 'dev'; it has: train"),
    ((TOY, "--config.data.train={root}/records*0"), r"weight '0' .* must be a number above 0"),
    ((SIMMIM,), r"config.data.train is not set: name records"),
    ((TOY, "--config.init_from=/no/such"), r"/no/such holds no checkpoint: name the work folder"),
    ((READER, "--config.init_from=/no/such"), r"/no/such holds neither a checkpoint nor config.json"),
    ((READER, "--config.init_from=/no/gen48"), "dig-jax import .* --input=gen48 --output=/no/gen48"),
    ((READER,), r"config.method.encoder is not set.*--config.init_from=DIR"),
    ((TOY, "--config.init_from={root}/old"), r"kernel is \(8, 5\) there and \(8, 4\) here.*another config.init_from"),
    ((TOY, "--config.init_from={root}/old", "--config.init_checkpoint=first"), r"init_checkpoint is 'first': set it to 'last'"),
    ((REAL, "--config.method.encoder.attention=flash"), r"encoder.attention is 'flash', a kernel of TPUs, and this is for a CPU: set it to 'auto'"),
    # devices and sizes
    ((TOY, "--config.mesh.data=9"), r"config.mesh is data=9, .* takes 9 devices, but there are 8 devices: set its axes"),
    ((TOY, "--config.mesh.fsdp=3"), r"config.mesh is data=-1, fsdp=3, .* takes 3 devices, does not divide 8 devices"),
    ((TOY, "--config.mesh.tensor=0"), r"config.mesh.tensor is 0: set it to a number of devices, or to -1 for the rest"),
    ((TOY, "--config.batch_size=12"), r"batch size 12 does not divide over 8 devices: set config.batch_size to .* 8 or 16"),
    ((TOY, "--config.batch_size=0"), r"batch size 0 .*set config.batch_size"),
    ((TOY, "--config.batch_size=-8"), r"batch size -8 .*set config.batch_size"),
    ((REAL + ",patch=32x5",), r"width of 128 px does not divide into patches of 5 px.*config.method.encoder.patch"),
    ((REAL, "--config.data.width_px=126"), r"width of 126 px does not divide into patches of 4 px.*config.data"),
    ((REAL, "--config.method.encoder.width=65"), r"width of 65 does not divide into 2 heads: set config.method.encoder.width"),
    ((TOY, "--config.data.height_px=0"), r"config.data.height_px is 0: set it to 1 or more"),
    ((TOY, "--config.data.width_px=-16"), r"config.data.width_px is -16: set it to 1 or more"),
    ((TOY, "--config.data.channels=2"), r"config.data.channels is 2: set it to 1 \(grey\) or 3"),
    ((TOY, "--config.data.squeeze_px=7"), r"data.squeeze_px is 7 and data.width_px is 16"),
    # numbers and words
    ((TOY, "--config.total.steps=-1"), r"config.total is .*-1.*cannot be negative"),
    ((TOY, "--config.seed=-1"), r"config.seed is -1: set it to a number from 0 to 4294967295"),
    ((TOY, "--config.log.every_steps=0"), r"config.log.every_steps is 0: set it to 1 or more"),
    ((TOY, "--config.checkpoint.every_steps=-2"), r"config.checkpoint.every_steps is -2: set it to 0"),
    ((TOY, "--config.checkpoint.keep_last=0"), r"config.checkpoint.keep_last is 0: set it to 1"),
    ((TOY, "--config.checkpoint.best_mode=lowest"), r"config.checkpoint.best_mode is 'lowest': set it to 'min' or 'max'"),
    ((SCRATCH, "--config.method.dropout=0.3"), r"dropout \(or encoder.dropout\) is 0.3, and this encoder has no LSTM"),
    ((SCRATCH, "--config.evals.recognition.batch_size=0"), r"config.evals.recognition.batch_size is 0: set it to 1 or more"),
    ((SCRATCH, "--config.evals.recognition.pictures=-1"), r"config.evals.recognition.pictures is -1: set it to 0 or more"),
    ((TOY, "--config.evals.toy.every_steps=-1"), r"config.evals.toy.every_steps is -1: set it to 0 or more"),
    ((TOY, "--config.data.workers=many"), r"config.data.workers is many: set it to 'auto', 0"),
    ((TOY, "--config.data.workers=-1"), r"config.data.workers is -1: set it to 'auto', 0"),
    ((TOY, "--config.data.max_bad_share=2"), r"config.data.max_bad_share is 2.* from 0 to 1"),
    ((TOY, "--config.data.kind=words"), r"config.data.kind is 'words': set it to 'crops'"),
    ((TOY, "--config.data.subset=100000"), r"subset .*100000"),
    ((TOY, "--config.method.name=toi"), r"config.method.name is 'toi'.*choose one of"),
    ((TOY, "--config.optim.name=lars"), r"config.optim.name is 'lars': set it to 'adamw' or 'sgd'"),
    ((TOY, "--config.optim.lr=nan"), r"config.optim.lr is nan: set it to 0 or more"),
    ((TOY, "--config.optim.schedule=linear"), r"config.optim.schedule is 'linear': set it to 'cosine', 'constant' or 'steps'"),
    ((TOY, "--config.optim.warmup_steps=9"), r"config.optim.warmup_steps is 9 but the run has 2 steps: lower it"),
    ((REAL, "--config.method.mask_ratio=1.5"), r"mask_ratio is 1.5; it must lie between 0 and 1: set config.method.mask_ratio"),
    ((REAL, "--config.method.encoder.dtype=float7"), r"dtype='float7' is not known: set config.method.encoder.dtype to 'auto' or one of"),
    ((REAL.replace("probe=none", "probe=/no/such"),), r"No record set at /no/such"),
    ((REAL, "--config.evals.collapse.spec=/no/such"), r"No record set at /no/such"),
    # labels
    ((TOY + ":lines", "--config.data.train={root}/bare"), r"label"),
    ((TOY + ":lines", "--config.data.max_label_length=1"), r"max_label_length=1: raise it"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, words", MISTAKES, ids=[" ".join(a)[-60:] for a, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_any_compilation(
    arguments, words, folder, tmp_path, monkeypatch, capsys
):
    toy.install(monkeypatch)
    arguments = [argument.replace("{root}", str(folder)) for argument in arguments]
    if arguments and not any(argument.startswith("--workdir") for argument in arguments):
        arguments.append(f"--workdir={tmp_path / 'run'}")
    code, said, compiled = run(monkeypatch, capsys, *arguments)
    assert code == 1 and "Traceback" not in said, said
    last = said.strip().splitlines()[-1]
    assert re.search(words, last), said
    assert compiled == 0, f"{compiled} compilations before: {last}"
    assert (
        not (tmp_path / "run" / "metrics.jsonl").exists()
        and checkpoint.steps(str(tmp_path / "run")) == []
    )


def test_the_listener_hears_a_run_without_mistakes(folder, tmp_path, monkeypatch, capsys):
    toy.install(monkeypatch)
    code, said, compiled = run(
        monkeypatch, capsys, f"--config={folder}/toy.py", f"--workdir={tmp_path}"
    )
    assert code == 0 and compiled > 0, said
    assert checkpoint.steps(str(tmp_path)) == [2]
