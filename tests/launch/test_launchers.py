"""The launchers: what they call, with what, how often, and that nothing of it runs under --dry_run.

Programs that are not here (sbatch, gcloud, kubectl, ...) are stood in for by one that writes down
its arguments and answers by a list. What SLURM, Google Cloud and Kubernetes do with the calls is
not tested.
"""

import collections
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from dig_jax import hosts

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FLAGS = [
    "--config=configs/pretrain/dig.py:preset=cpu,quick",
    "--config.data.train=records/a b,records/c*0.5",
    """--config.name=it's "so" & $(HOME) $HOME `id` \\ ; #@NAME@""",
    "--config.note=two\nlines\tand a tab",
]
TRAIN = ["-m", "dig_jax.main", *FLAGS]
FAKE = """#!{python} -SE
import json, os, signal, sys, time
folder, name = os.path.split(os.path.abspath(__file__))
index = int(os.environ.get("DIG_PROCESS_INDEX", 0))
told = {{k: v for k, v in os.environ.items() if k.startswith(("DIG_", "JAX_COORD", "JAX_LOCAL"))}}
call = [name, sys.argv[1:], told]
with open(folder + "/../calls", "a+") as file:
    file.seek(0)
    before = [c for c in map(json.loads, file) if c[0] == name]
    before = [c for c in before if int(c[2].get("DIG_PROCESS_INDEX", 0)) == index]
    file.write(json.dumps(call) + "\\n")
if name == "scancel":
    os.kill(int(open(folder + "/../waiting-0").read()), signal.SIGTERM)
answers = json.load(open(folder + "/../answers")).get(name, [[0]])
answer = answers[min(len(before), len(answers) - 1)]
if isinstance(answer[0], list):  # one for each process
    answer = answer[index]
code, text = (*answer, "")[:2]
if text == "waits":  # until a SIGTERM, as training does
    def end(*_):
        time.sleep(1)  # saves
        with open(folder + "/../calls", "a") as file:
            file.write(json.dumps([name, ["SIGTERM"], {{}}]) + "\\n")
        sys.exit(code)
    signal.signal(signal.SIGTERM, end)
    with open(folder + "/../pid-%d" % index, "w") as file:
        file.write(str(os.getpid()))
    os.rename(folder + "/../pid-%d" % index, folder + "/../waiting-%d" % index)
    time.sleep(30)
    sys.exit(99)
print(text, end="")
sys.stdout.flush()
if 128 <= code < 160 and code not in (134, 143):  # 255 is no signal; 134 would leave a core
    os.kill(os.getpid(), code - 128)
sys.exit(code)
"""


class Place:
    """A folder with stand-ins in front of PATH. answers: {program: [[exit code, output] of each
    call, the last for ever]}.
    """

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name in (
            "python",
            "sbatch",
            "srun",
            "scancel",
            "scontrol",
            "squeue",
            "gcloud",
            "kubectl",
            "sleep",
        ):
            (self.bin / name).write_text(FAKE.format(python=sys.executable))
            (self.bin / name).chmod(0o755)
        hidden = (
            "SLURM",
            "DIG_",
            "JAX_",
            "PYTHON",
            "PROJECT",
            "ZONE",
            "SETUP",
            "NAME",
            "TIER",
            "IMAGE",
            "HOSTS",
        )
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self.env |= {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PROJECT": "p",
            "ZONE": "z",
            "IMAGE": "a/b:c",
            "SETUP": "cd .",
            "TMPDIR": str(folder),
        }
        self.answer()

    def answer(self, **answers):
        (self.folder / "answers").write_text(json.dumps(answers))
        (self.folder / "calls").write_text("")

    def start(self, script, *flags, **env):
        pipes = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        # Where the tests run in the background of a shell, SIGINT is ignored, and no trap of a
        # script could undo that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                [LAUNCH / script, *flags], env=self.env | env, cwd=self.folder, **pipes
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def run(self, script, *flags, **env):
        process = self.start(script, *flags, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def bash(self, text):
        subprocess.run(
            ["bash", "-euc", text],
            env=self.env,
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def calls(self, *names):
        calls = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [call for call in calls if not names or call[0] in names]

    def words(self, *names):
        """Without their environment."""
        return [[name, *arguments] for name, arguments, _ in self.calls(*names)]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited for 30 s"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "path", [*sorted(LAUNCH.glob("*.sh")), ROOT / ".ci" / "run"], ids=lambda path: path.name
)
def test_shell_scripts_pass_shellcheck(path):
    program = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert program, "shellcheck is missing: pip install 'dig_jax[test]'"
    checked = subprocess.run([program, path], capture_output=True, text=True)
    assert not checked.returncode, checked.stdout
    lines = path.read_text().splitlines()
    of_many_stages = path.stem in ("real_input", "strong", "similar", "characters", "captcha")
    longest = 110 if of_many_stages else 60
    assert os.access(path, os.X_OK) and len(lines) <= longest and max(map(len, lines)) <= 100


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_help_explains_and_starts_nothing(place, path):
    for given in (["--help"], [*FLAGS, "-h"], ["--help", "--dry_run"]):
        code, out, err = place.run(path.name, *given)
        assert (code, err, place.calls()) == (0, "", [])
        assert f"launch/{path.name}" in out and "SBATCH" not in out.replace("#SBATCH lines", "")
        assert 2 <= len(out.splitlines()) < 30 and "pipefail" not in out
    assert set(os.listdir(place.folder)) == {"bin", "answers", "calls"}


@pytest.mark.parametrize(("kind", "readers"), [("digits", 2), ("devanagari", 1)])
def test_starts_on_other_characters_are_judged_alike(tmp_path, kind, readers):
    """characters.sh: every start with the same lines, steps and readers, frozen and fine-tuned."""
    env = os.environ | {"PYTHON": "echo", "RUNS": f"{tmp_path}/R", "RECORDS": f"{tmp_path}/r"}
    starts = ("random", "own", "gen48", "print")
    called = subprocess.run(
        [LAUNCH / "characters.sh", "judge", kind, *starts],
        env=env, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    runs = [call for call in called if "dig_jax.main" in call]
    assert len(runs) == len(starts) * readers * 2
    protocols = collections.Counter()
    for run in runs:
        name, args = re.search(r"--config=(\w+):(\S+)", run).groups()
        config = importlib.import_module(f"configs.recognize.{name}").get_config(args)
        given = config.get("shape_from") or re.search(r"init_from=(\S+)", run)[1]
        assert given.startswith(f"{tmp_path}/R/")
        data = (config.data.subset, config.data.subset_seed, config.total.steps, config.batch_size)
        kinds = {head.kind for head in config.method.heads.values()}
        protocols[name == "probe", *kinds, data] += 1
    assert set(protocols.values()) == {len(starts)} and len(protocols) == 2 * readers
    assert len(set(re.search(r"--workdir=(\S+)", run)[1] for run in runs)) == len(runs)


def test_captchas_are_judged_alike_by_three_seeds(tmp_path):
    """captcha.sh all: each start and seed is pre-trained once, and judged by as many labels."""
    env = os.environ | {"PYTHON": "echo", "RUNS": f"{tmp_path}/R", "RECORDS": f"{tmp_path}/r"}
    (tmp_path / "R/judged/20/gen-0").mkdir(parents=True)
    called = subprocess.run(
        [LAUNCH / "captcha.sh", "all"], env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    made = [re.search(r"--workdir=\S+/R/(\S+)", call)[1] for call in called if ".main " in call]
    assert len(made) == len(set(made)) == 3 * (5 + 6 * 4)
    for call in called:
        if "/R/judged/" not in call or ".main " not in call:
            continue
        start, seed = re.search(r"--workdir=\S+/(\w+)-(\d)", call).groups()
        assert f"seed={seed}" in call
        found = re.search(r"init_from=\S+/R/(\S+)", call)
        assert (found and found[1]) == (None if start == "random" else f"pretrain/{start}-{seed}")
        assert not found or made.index(found[1]) < made.index(call.rpartition("/R/")[2])
    drawn = next(call for call in called if "label_curves" in call)
    assert drawn.endswith(f"gen={tmp_path}/R/judged/20/gen-0/") and "--set=captcha_ds-test" in drawn


@pytest.mark.parametrize(
    "call",
    [
        "strong pretrain", "strong judge gen archiscribe", "strong ablate", "strong readers",
        "similar records", "similar judge hands", "similar self fraktur", "similar fonts",
        "captcha pretrain", "captcha judge", "characters judge digits", "characters records",
        "real_input pretrain", "real_input judge dig", "real_input bench",
    ],
)  # fmt: skip
def test_a_stage_without_its_arguments_starts_nothing(tmp_path, call):
    name, *args = call.split()
    env = os.environ | {"PYTHON": "echo", "RUNS": f"{tmp_path}/R", "RECORDS": f"{tmp_path}/r"}
    done = subprocess.run([LAUNCH / f"{name}.sh", *args], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and not os.listdir(tmp_path)
    assert re.fullmatch(rf"{args[0]} needs \d arguments or more: see --help\n", done.stderr)


@pytest.mark.parametrize("labels", ["34", "0"])
def test_rounds_of_self_training_follow_each_other(tmp_path, labels):
    """similar.sh: the student of a round is the teacher of the next; true labels stay the same."""
    env = os.environ | {"PYTHON": "echo", "RUNS": "R", "RECORDS": f"{tmp_path}/r"}

    def flags(stage):
        called = subprocess.run(
            [LAUNCH / "similar.sh", stage, "fraktur", labels],
            env=env, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        return [dict(word.split("=", 1) for word in call.split() if "=" in word) for call in called]

    (reads, learns), (reads_again, learns_again) = flags("self"), flags("again")
    helped, learns_helped = flags("ngram")  # as again, and the teacher's texts help it to read
    assert helped["--texts"] == f"{reads['--output']},{tmp_path}/r/fraktur" and "--lm" in helped
    assert helped["--model"] == reads_again["--model"] and "--texts" not in reads_again
    assert learns_helped["--config.data.train"] == helped["--output"] != reads_again["--output"]
    assert learns_helped["--workdir"] not in (learns["--workdir"], learns_again["--workdir"])
    teacher = "R/fraktur-0" if labels == "0" else "R/archiscribe/34/fraktur-0"
    assert (reads["--model"], reads_again["--model"]) == (teacher, learns["--workdir"])
    for name in ("--first", "--lines"):  # which labels are true
        assert reads.get(name) == reads_again.get(name)
        assert (name in reads) == (name == ("--lines" if labels == "0" else "--first"))
    for read, learn in ((reads, learns), (reads_again, learns_again)):
        assert learn["--config.data.train"] == read["--output"]
        assert learn["--config.init_from"] == "R/fraktur-0"
    assert learns_again["--workdir"] != learns["--workdir"]
    assert reads_again["--output"] != reads["--output"]


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "tpu_vm.sh", "gke.sh"])
def test_dry_run_prints_what_would_run_and_runs_nothing(place, script):
    """The lines that it prints, given to a shell, make the calls that a real run makes, with the
    same arguments.
    """
    for asked in (["--dry_run", *FLAGS], [*FLAGS, "--dry_run"]):
        code, out, err = place.run(script, *asked)
        assert code == 0 and err == "" and place.calls() == []
    place.bash(out)
    printed = place.words()
    place.answer(gcloud=[[0, ""], [0], [0, "ACTIVE"], [0], [0]])
    assert place.run(script, *FLAGS)[0] == 0
    if script == "slurm.sh":  # what sbatch runs on the cluster
        place.env |= {"SLURM_JOB_ID": "7"}
        assert place.run(script, *FLAGS)[0] == 0
    real = place.words()
    if script == "tpu_vm.sh":  # it asks again until the slice is there
        real = [call for call in real if call[0] != "sleep"]
        assert real.pop(2) == real[0] and real[0][4] == "list"
    assert printed == real and printed


def test_vertex_submits_one_job_with_all_flags(place):
    asked = {"REGION": "r", "NFS": "10.0.0.2:/dig", "NETWORK": "n"}
    code, out, err = place.run("vertex.sh", "--dry_run", *FLAGS, **asked)
    assert (code, err, place.calls()) == (0, "", [])
    head, spec, end = out.splitlines()
    assert head.endswith("<<'END'") and end == "END" and "'custom-jobs' 'create'" in head
    (pool,) = json.loads(spec)["workerPoolSpecs"]
    assert pool["containerSpec"] == {"imageUri": "a/b:c", "args": FLAGS}
    assert pool["nfsMounts"] == [{"server": "10.0.0.2", "path": "/dig", "mountPoint": "dig"}]
    assert pool["machineSpec"]["acceleratorCount"] == 8
    chips = {"GPUS": "0", "MACHINE": "ct5lp-hightpu-4t"}
    out = place.run("vertex.sh", "--dry_run", *FLAGS, **asked, **chips)[1]
    (pool,) = json.loads(out.splitlines()[1])["workerPoolSpecs"]
    assert pool["machineSpec"] == {"machineType": "ct5lp-hightpu-4t", "tpuTopology": "2x2"}
    assert place.run("vertex.sh", *FLAGS, **asked)[0] == 0
    assert place.words()[0][:4] == ["gcloud", "ai", "custom-jobs", "create"]
    code, _, err = place.run("vertex.sh", *FLAGS)
    assert code == 1 and "REGION is not set" in err


def test_one_tpu_vm_is_made_once_filled_trained_on_and_read_from(place):
    (place.bin / "git").write_text(FAKE.format(python=sys.executable))
    (place.bin / "git").chmod(0o755)
    given = ["records/a b", *FLAGS, "--workdir=runs/x"]
    code, out, err = place.run("tpu_one.sh", "--dry_run", *given)
    assert (code, err, place.calls()) == (0, "", [])
    place.bash(out)
    printed = place.words()
    place.answer(gcloud=[[1], [0]])  # there is none yet
    assert place.run("tpu_one.sh", *given)[0] == 0
    describe, *real = place.words()
    assert describe[4] == "describe" and real == printed
    done = [call[4] for call in real if call[0] == "gcloud"]
    assert done == ["create", "scp", "ssh", "scp", "ssh", "scp"]
    train = next(word for word in real[-2] if word.startswith("--command="))
    # What the shell of the VM makes of it, with a stand-in for the launcher.
    (place.folder / "dig_jax" / "launch").mkdir(parents=True)
    local = place.folder / "dig_jax" / "launch" / "local.sh"
    for code in (0, 1):  # the code of the training, and not of an earlier one
        local.write_text(f'#!/bin/bash\nsleep 0.5\nprintf "%s\\0" "$@" >given\nexit {code}\n')
        local.chmod(0o755)
        there = ["bash", "-c", train.removeprefix("--command=")]
        assert subprocess.run(there, env=place.env, cwd=place.folder).returncode == code
        given = (place.folder / "dig_jax" / "given").read_text().split("\0")[:-1]
        assert given == [*FLAGS, "--workdir=runs/x"]
    for there in ("/x", "gs://bucket/x", "../x", "runs/../../x"):
        code, _, err = place.run("tpu_one.sh", *FLAGS, f"--workdir={there}")
        assert code == 1 and f"--workdir={there}: give a path below this folder" in err
        code, _, err = place.run("tpu_one.sh", there, *FLAGS, "--workdir=runs/x")
        assert code == 1 and err.startswith(f"{there}: give a path below this folder")


@pytest.mark.parametrize(
    ("answers", "calls", "ends"),
    [
        ([[0], [0], [0], [0]], "describe ssh ssh scp", 0),  # it trains: nothing is copied below it
        ([[0], [0], [1], [0]], "describe ssh ssh scp", 1),  # failed: fetched all the same
        ([[0], [0], [255]], "describe ssh ssh", 255),  # lost
        ([[0], [255]], "describe ssh", 255),  # it may train: nothing is copied below it
        ([[0], [0], [0], [1]], "describe ssh ssh scp", 1),  # done, and not fetched
        ([[0], [1], [0], [0], [0], [0]], "describe ssh scp ssh ssh scp", 0),  # none: filled anew
    ],
)
def test_one_tpu_vm_ends_as_its_training(place, answers, calls, ends):
    (place.bin / "git").write_text(FAKE.format(python=sys.executable))
    (place.bin / "git").chmod(0o755)
    place.answer(gcloud=answers)
    code, out, err = place.run("tpu_one.sh", *FLAGS, "--workdir=runs/x")
    assert (code, [call[4] for call in place.words("gcloud")]) == (ends, calls.split())
    assert "same command looks on" in err if ends == 255 else "# delete the VM: " in out


@pytest.mark.parametrize(
    "script", ["local.sh", "slurm.sh", "tpu_vm.sh", "tpu_one.sh", "gke.sh", "vertex.sh"]
)
def test_a_launcher_without_flags_starts_nothing(place, script):
    code, _, err = place.run(script)
    assert code == 1 and "give " in err and not place.calls()


def test_the_image_holds_the_pinned_versions():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and line[0] not in "# "]
    assert {name for name, _ in steps} <= {
        "FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "ENTRYPOINT",
    }  # fmt: skip
    installs = [rest for name, rest in steps if name == "RUN"]
    assert "install -y --no-install-recommends tini" in installs[0]
    assert "-r requirements.txt" in installs[1] and "--no-deps" in installs[2]
    # As process 1 Python would not hear SIGTERM before the first step.
    assert json.loads(steps[-1][1]) == ["tini", "--", "python", "-m", "dig_jax.main"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "records"} <= set(ignored)


# ---- local.sh


def test_local_processes_find_each_other(place):
    assert place.run("local.sh", "--processes=3", *FLAGS)[0] == 0
    calls = sorted(place.calls("python"), key=lambda call: call[2]["DIG_PROCESS_INDEX"])
    assert [arguments for _, arguments, _ in calls] == [TRAIN] * 3
    (address,) = {env["JAX_COORDINATOR_ADDRESS"] for *_, env in calls}
    assert address.startswith("localhost:") and 10000 <= int(address.split(":")[1]) < 30000
    assert [
        (e["DIG_PROCESS_COUNT"], e["DIG_PROCESS_INDEX"], e["JAX_LOCAL_DEVICE_IDS"])
        for *_, e in calls
    ] == [("3", str(i), str(i)) for i in range(3)]


def test_a_lone_local_process_is_told_nothing(place):
    assert place.run("local.sh", *FLAGS)[0] == 0
    assert place.calls() == [["python", TRAIN, {}]]


@pytest.mark.parametrize("wrong", ["0", "two", "", "-1"])
def test_local_wants_a_number_of_processes(place, wrong):
    code, _, err = place.run("local.sh", f"--processes={wrong}")
    assert code == 1 and f"--processes={wrong}: give a number" in err and not place.calls()


def test_local_starts_again_after_saved_and_after_killed(place):
    """Saved (143), then one of the two killed, whose peer ends with a sentence; then done."""
    place.answer(python=[[[143], [143]], [[1], [137]], [[0], [0]]])
    code, _, err = place.run("local.sh", "--processes=2", *FLAGS)
    assert code == 0 and len(place.calls("python")) == 6
    assert "exit code 143" in err and "exit code 137" in err
    assert (
        len({env["JAX_COORDINATOR_ADDRESS"] for *_, env in place.calls("python")}) == 3
    )  # no waiting for a port in use


def test_local_does_not_repeat_what_ended_with_a_sentence(place):
    place.answer(python=[[[0], [1]]])
    assert place.run("local.sh", "--processes=2", *FLAGS)[0] == 1
    assert len(place.calls("python")) == 2


def test_local_does_not_repeat_a_sentence_for_which_the_others_are_aborted(place):
    """The lead ends with a sentence; JAX aborts a peer that misses it."""
    place.answer(python=[[[1], [134]]])
    assert place.run("local.sh", "--processes=2", *FLAGS, QUICK_S="0")[0] == 1
    assert len(place.calls("python")) == 2


def test_local_starts_again_where_a_worker_aborts_and_the_others_miss_it(place):
    place.answer(python=[[[134], [134]], [[0], [0]]])
    assert place.run("local.sh", "--processes=2", *FLAGS, QUICK_S="0")[0] == 0
    assert len(place.calls("python")) == 4


def test_local_gives_up_after_three_short_attempts_in_a_row(place):
    place.answer(python=[[137]])
    code, _, err = place.run("local.sh", *FLAGS)
    assert code == 137 and len(place.calls("python")) == 3 and "less than 60 s: giving up" in err
    place.answer(python=[[143]] * 5 + [[0]])
    assert place.run("local.sh", *FLAGS, QUICK_S="0")[0] == 0  # none of these is short
    assert len(place.calls("python")) == 6


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_a_signal_on_and_stays_down(place, asked, processes):
    place.answer(python=[[143, "waits"]])
    process = place.start("local.sh", f"--processes={processes}", *FLAGS)
    until(lambda: all((place.folder / f"waiting-{i}").exists() for i in range(processes)))
    process.send_signal(asked)
    assert process.wait(timeout=20) == 143  # not before the processes have saved
    assert (
        sorted(place.words("python"))
        == [["python", *TRAIN]] * processes + [["python", "SIGTERM"]] * processes
    )
    process.communicate()


def test_local_kills_at_the_second_signal(place):
    place.answer(python=[[143, "waits"]])
    process = place.start("local.sh", *FLAGS)
    until((place.folder / "waiting-0").exists)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.25)  # the process takes a second to save
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 137 and place.words() == [["python", *TRAIN]]
    process.communicate()


# ---- slurm.sh


def test_slurm_submits_itself(place):
    assert place.run("slurm.sh", *FLAGS)[0] == 0
    assert place.words() == [["sbatch", str(LAUNCH / "slurm.sh"), *FLAGS]]
    text = (LAUNCH / "slurm.sh").read_text()
    read, _, _ = text.partition("\nset ")  # sbatch reads options up to the first command
    options = [
        line.removeprefix("#SBATCH ") for line in read.splitlines() if line.startswith("#SBATCH")
    ]
    assert {"--requeue", "--signal=B:TERM@120", "--open-mode=append"} <= set(options)
    assert text.count("\n#SBATCH") == len(options)


@pytest.mark.parametrize(
    "code, state, again",
    [
        (143, "7\n", True),
        (143, "", False),
        (0, "7\n", False),
        (1, "7\n", False),
        (137, "7\n", False),
    ],
    ids=["saved", "cancelled", "done", "sentence", "killed"],
)
def test_slurm_queues_again_what_was_saved_and_not_cancelled(place, code, state, again):
    place.answer(srun=[[code]], squeue=[[0, state]])
    assert place.run("slurm.sh", *FLAGS, SLURM_JOB_ID="7")[0] == code
    srun, *_ = place.words("srun")
    assert srun[2:] == ["python", *TRAIN]
    assert place.words("scontrol") == ([["scontrol", "requeue", "7"]] if again else [])
    assert place.words("sbatch") == []


def test_slurm_in_a_container(place):
    assert place.run("slurm.sh", *FLAGS, SLURM_JOB_ID="7", CONTAINER="a/b:c")[0] == 0
    (srun,) = place.words("srun")
    assert srun[1:] == [
        "--wait=300", "--container-image=a/b:c", "--container-mounts=/shared:/shared",
        "--no-container-entrypoint", "python", *TRAIN,
    ]  # fmt: skip


def test_slurm_tells_the_tasks_by_scancel_and_waits_for_them(place):
    """srun must not get the signal from the script: it would kill its tasks."""
    place.answer(srun=[[143, "waits"]], squeue=[[0, "7\n"]])
    process = place.start("slurm.sh", *FLAGS, SLURM_JOB_ID="7")
    until((place.folder / "waiting-0").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert [call[:2] for call in place.words()[1:]] == [
        ["scancel", "--signal=TERM"],
        ["srun", "SIGTERM"],  # from the stand-in for scancel
        ["squeue", "--noheader"],
        ["scontrol", "requeue"],
    ]


# ---- tpu_vm.sh


def verbs(place):
    """["list", "create", "ssh", ...] of gcloud's calls."""
    return [call[4] for call in place.words("gcloud")]


def test_tpu_asks_for_another_slice_after_a_preemption(place):
    place.answer(
        gcloud=[
            [0, ""], [0],  # none yet: list, create
            [0, "PROVISIONING"],
            [0, "ACTIVE"], [255],  # trains, and the connection breaks
            [1],  # gcloud cannot be reached
            [0, "SUSPENDING"],
            [0, "SUSPENDED"], [0],  # deleted
            [0, ""], [0],
            [0, "ACTIVE"], [0],  # trained to the end
            [0],
        ]
    )  # fmt: skip
    assert place.run("tpu_vm.sh", *FLAGS)[0] == 0
    assert (
        " ".join(verbs(place))
        == "list create list list ssh list list list delete list create list ssh delete"
    )
    create, delete = place.words("gcloud")[1], place.words("gcloud")[-1]
    assert (
        create[1:6] == ["compute", "tpus", "queued-resources", "create", "dig"]
        and "--node-id=dig" in create
    )
    assert {"--spot", "--project=p", "--zone=z", "--accelerator-type=v5litepod-16"} <= set(create)
    assert delete[4:] == ["delete", "dig", "--force", "--quiet", "--project=p", "--zone=z"]


def test_tpu_gives_up_where_a_training_ends_late_by_itself_and_not_after_losses(place):
    gone, missed, ended = ([[0, "ACTIVE"], [code]] for code in (255, hosts.LOST, 1))
    place.answer(gcloud=[*ended * 2, *gone * 4, *missed * 4, *ended * 3])
    code, _, err = place.run("tpu_vm.sh", *FLAGS, QUICK_S="0")
    assert code == 1 and verbs(place) == ["list", "ssh"] * 13 and "three failures" in err
    preempted = [[0, "SUSPENDED"], [0], [0, ""], [0]]
    place.answer(gcloud=[*ended * 2, *preempted, *ended * 2, *preempted, [0, "ACTIVE"], [0]])
    assert place.run("tpu_vm.sh", *FLAGS, QUICK_S="0")[0] == 0


def test_tpu_workers_get_the_flags_as_they_were_given(place):
    place.answer(gcloud=[[0, "ACTIVE"], [0]])
    assert (
        place.run(
            "tpu_vm.sh", *FLAGS, SETUP="mkdir -p 'the code' && cd 'the code'\n", TIER="on-demand"
        )[0]
        == 0
    )
    ssh = place.words("gcloud")[1]
    assert ssh[3:7] == ["tpu-vm", "ssh", "dig", "--worker=all"] and "--spot" not in ssh
    (place.folder / "calls").write_text("")
    place.bash(ssh[7].removeprefix("--command="))  # what each worker does
    assert place.words("python") == [["python", *TRAIN]] and (place.folder / "the code").is_dir()


def test_tpu_ends_the_run_that_it_left_behind_and_no_other(place):
    """Each worker may run other Python programs; a process number may have been given anew."""
    place.answer(gcloud=[[0, "ACTIVE"], [0]])
    assert place.run("tpu_vm.sh", *FLAGS)[0] == 0
    command = place.words("gcloud")[1][7].removeprefix("--command=")
    place.answer(python=[[143, "waits"]])
    left = subprocess.Popen(["bash", "-c", command], env=place.env, cwd=place.folder)
    until((place.folder / "waiting-0").exists)
    assert (place.folder / "dig_jax-dig.pid").read_text().strip() == str(left.pid)
    (place.folder / "waiting-0").unlink()
    other = subprocess.Popen([place.bin / "python"], env=place.env, cwd=place.folder)
    until((place.folder / "waiting-0").exists)
    place.answer()  # the next one ends at once
    place.bash(command)
    assert left.wait(timeout=60) == 143 and other.poll() is None
    (place.folder / "dig_jax-dig.pid").write_text(f"{os.getpid()}\n")  # given anew, to this test
    place.bash(command)
    other.kill()
    other.wait()


@pytest.mark.parametrize(
    "answers, last",
    [
        ([[0, "ACTIVE"], [1]] * 3, "ssh"),
        ([[0, ""], [1]] * 3, "create"),
        ([[0, "FAILED"], [0]] * 3, "delete"),
    ],
    ids=["training", "quota", "refused"],
)
def test_tpu_gives_up_after_three_failures_and_says_what_still_costs(place, answers, last):
    place.answer(gcloud=answers)
    code, _, err = place.run("tpu_vm.sh", *FLAGS)
    assert code == 1 and verbs(place) == ["list", last] * 3
    assert "three failures" in err
    place.answer()
    place.bash(err.strip().splitlines()[-1].split("costs money: ")[1])
    assert place.words() == [
        "gcloud compute tpus queued-resources delete dig --force --quiet --project=p --zone=z".split()
    ]


@pytest.mark.parametrize("name", ["PROJECT", "ZONE", "SETUP"])
def test_tpu_says_what_is_not_set(place, name):
    code, _, err = place.run("tpu_vm.sh", *FLAGS, **{name: ""})
    assert code == 1 and err.startswith(f"{name} is not set") and not place.calls()


# ---- gke.sh


def manifest(place, **env):
    code, out, _ = place.run("gke.sh", "--dry_run", *FLAGS, **env)
    assert code == 0
    return yaml.safe_load(out.split("\n", 1)[1].rsplit("END", 1)[0])


def test_gke_pods_get_the_flags_as_they_were_given(place):
    jobset = manifest(place, NAME="run-1", HOSTS="8", IMAGE="r/i:t&g")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    kubelet = [
        item.replace("$$", "$") for item in container["args"]
    ]  # with no $(NAME) left that it would fill in
    assert kubelet == FLAGS and not any(
        "$(" in item.replace("$$", "") for item in container["args"]
    )
    assert (
        container["command"] == ["tini", "--", "python", *TRAIN[:2]]
        and container["image"] == "r/i:t&g"
    )
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (8, 8, "Indexed")


def test_gke_pods_find_each_other_and_start_again_together(place):
    jobset = manifest(place, NAME="run-1", HOSTS="8")
    train = jobset["spec"]["replicatedJobs"][0]
    job = train["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    env = {entry["name"]: entry for entry in container["env"]}
    name = jobset["metadata"]["name"]
    host = f"{name}-{train['name']}-0-0.{name}"  # JobSet's names for its pods
    assert (
        env["JAX_COORDINATOR_ADDRESS"]["value"] == f"{host}:8476"
        and env["DIG_PROCESS_COUNT"]["value"] == "8"
    )
    assert "job-completion-index" in env["DIG_PROCESS_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    saved, taken = job["podFailurePolicy"]["rules"]
    assert saved["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [143],
    }
    assert taken["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert saved["action"] == taken["action"] == "FailJob"
    assert len((LAUNCH / "gke.yaml").read_text().splitlines()) <= 40
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }


def test_gke_says_what_is_not_set(place):
    code, _, err = place.run("gke.sh", *FLAGS, IMAGE="")
    assert code == 1 and err.startswith("IMAGE is not set") and not place.calls()


def test_strong_names_a_pretraining_with_arguments():
    """NAME=can pretrain mae:can, and a reader of its third block, in a folder of its own."""

    def says(*args, **more):
        env = {**os.environ, "PYTHON": "echo", "RUNS": "r", "SIZE": "micro", **more}
        call = ["bash", LAUNCH / "strong.sh", *args]
        return subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout

    named = says("pretrain", "mae:can", "--config.x=1", NAME="can")
    assert "--config=mae:can,preset=cpu,size=micro," in named and "r/micro/pretrain/can-0" in named
    assert named.endswith("--config.x=1\n")
    assert "r/micro/pretrain/latent-0" in says("pretrain", "latent:target=pixels")
    assert "dig:objective=gen,preset=cpu" in says("pretrain", "gen")
    read = says("judge", "can", "archiscribe", "0.1", BLOCK="3")
    assert ",block=3 --config.init_from=r/micro/pretrain/can-0" in read
    assert read.endswith("--workdir=r/micro/archiscribe/0.1/can_block3-0\n")
    probe, tuned = says("readers", "captcha_ds", "bilstm").splitlines()
    assert "probe:decoder=ctc,head=bilstm,labels=1.0," in probe and tuned.endswith("/finetune-0")
    assert all("init_from=r/micro/pretrain/gen-0 " in line for line in (probe, tuned))
    other = says("readers", "archiscribe", "linear", START="mae-1", USE="probe", BLOCK="3")
    assert ",block=3,rates=" in other and "init_from=r/micro/pretrain/mae-1 " in other
    assert other.endswith("--workdir=r/readers/archiscribe/linear_3/probe-mae-0\n")
    probe, tuned = says("readers", "archiscribe", "linear", START="random").splitlines()
    assert "probe:" in probe and "scratch:" in tuned and "init_from" not in probe + tuned
    assert "shape_from=r/micro/pretrain/gen-0" in probe and probe.endswith("/probe-random-0")
    replaced = says("ablate", "archiscribe", "vit_plain", "lstm").splitlines()
    assert "size=micro,patch=32x4" in replaced[0] and "standardize=False" in replaced[0]
    assert replaced[0].endswith("/vit_plain-0") and replaced[1].endswith("/without_lstm-0")


def test_strong_prints_the_runs_of_an_ablation_one_by_one(tmp_path):
    for folder in ("cnn48/a/0.1/random-0", "ablation/a/vit-0", "ablation/a/without_lstm-0"):
        (tmp_path / folder).mkdir(parents=True)
    env = {**os.environ, "PYTHON": "true", "RUNS": str(tmp_path)}
    call = ["bash", LAUNCH / "strong.sh", "table"]
    text = subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout
    shown = [line.removeprefix(f"== {tmp_path}/") for line in text.splitlines()]
    assert shown == ["cnn48/", "ablation/a/vit-0/", "ablation/a/without_lstm-0/"]
