"""launch/demo.sh: what it runs, and that its two recognisers differ in their start alone.

The programs are stood in for; `launch/release_check.sh` runs the demo itself.
"""

import pytest

from dig_jax.interop import model
from dig_jax.train import command_line
from tests.launch.test_launchers import Place


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """What the demo calls, program and flags, for SEED=5."""
    place = Place(tmp_path_factory.mktemp("demo"))
    code, out, err = place.run("demo.sh", str(place.folder / "out"), SEED="5")
    assert (code, err) == (0, ""), err
    assert out.count("\n== ") == 6 and str(place.folder / "out" / "report.html") in out
    return [(flags[1].removeprefix("dig_jax."), flags[2:]) for _, *flags in place.words("python")]


def runs(calls):
    """{last part of the work folder: (config, flags)}"""
    found = {}
    for program, flags in calls:
        if program == "main":
            name, path = (
                next(f for f in flags if f.startswith(s)) for s in ("--config=", "--work")
            )
            others = [flag for flag in flags if flag not in (name, path)]
            found[path.rsplit("/", 1)[1]] = (name.removeprefix("--config="), others)
    return found


def test_stages_stand_in_order(calls):
    programs = [program for program, _ in calls]
    assert programs.index("tools.make_records") < programs.index("tools.show_readings")
    assert programs.index("tools.show_readings") < programs.index("main")
    assert programs[-1] == "tools.report"
    read = [flags[0] for program, flags in calls if program == "tools.show_readings"]
    assert read and set(read) <= set(model.bundled())
    (taken,) = (flags for program, flags in calls if program == "tools.import_weights")
    assert any(flag == f"--input={name}" for flag in taken for name in model.bundled())


def test_recognisers_differ_in_their_start_alone(calls):
    found = runs(calls)
    ours, theirs = (command_line.load(found[name][0]) for name in ("pretrained", "random"))
    for part in ("optim", "total", "data", "batch_size", "seed"):
        assert ours[part] == theirs[part], part
    assert ours.seed == 5 and ours.data.subset == 100
    flags = found["random"][1]
    assert any(flag.startswith("--config.init_from=") for flag in found["pretrained"][1])
    assert not any("init_from" in flag for flag in flags) and theirs.shape_from.endswith("/gen")
    both = [set(f for f in found[name][1] if "init_from" not in f) for name in found]
    assert both[-1] == both[-2]
    assert command_line.load(found["gen"][0]).method.objective == "gen"
