"""docs/add_a_method.md: its method, config and test are run as they stand on the page."""

import re
import sys
import types
from pathlib import Path

import pytest

from dig_jax.augment import recipes
from dig_jax.data import records, writer
from dig_jax.data.sources import lines
from dig_jax.train import command_line, run
from dig_jax.workdir import metrics
from tests import test_docs
from tests.methods import pairs

NAME = "dig_jax.methods.barlow_twins"


@pytest.fixture(scope="module")
def blocks():
    """{title: code} of the page."""
    return dict(test_docs.titled_blocks())


@pytest.fixture
def method(blocks, monkeypatch):
    """The page's method, where a config finds it by name."""
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)
    exec(compile(blocks["dig_jax/methods/barlow_twins.py"], NAME, "exec"), module.__dict__)
    return module


def test_the_method_of_the_page_is_about_forty_lines(blocks):
    code = re.sub(r'""".*?"""', "", blocks["dig_jax/methods/barlow_twins.py"], flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 45


@pytest.mark.slow
def test_the_page_trains_for_two_steps(blocks, method, tmp_path, monkeypatch):
    # A recipe that compiles quickly: they have tests of their own.
    monkeypatch.setitem(recipes.RECIPES, "lines_light", pairs.BLUR)
    config = tmp_path / Path("configs/pretrain/barlow_twins.py").name
    config.write_text(blocks["configs/pretrain/barlow_twins.py"], encoding="utf-8")
    made = lines.examples(
        report=writer.Report(),
        splits="train=16,validation=2",
        fonts="bundled",
        max_words=1,
        height_px=32,
        workers=0,
    )
    records.write(tmp_path / "lines", made)
    chosen = command_line.load(f"{config}:records={tmp_path / 'lines'},probe=none,quick")
    chosen.unlock()
    chosen.mesh.data, chosen.data.width_px, chosen.evals = 1, 64, {}
    state = run.run(chosen, str(tmp_path / "run"))
    assert int(state.step) == 2
    rows = metrics.read_jsonl(str(tmp_path / "run" / "metrics.jsonl"))
    seen = {name: value for row in rows for name, value in row.items()}
    assert -1 <= seen["train/agreement"] <= 1 and 0 < seen["train/q_std"] < 1


def test_the_test_of_the_page_passes(blocks, method):
    space = {}
    exec(blocks["tests/methods/test_barlow_twins.py"], space)
    for name, test in space.items():
        if name.startswith("test_"):
            test()
