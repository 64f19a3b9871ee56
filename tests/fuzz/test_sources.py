"""The fuzzer of the sources: two cases of each layout end as they must, and a broken promise is
found.
"""

import functools

import pytest

from tests.fuzz import sources
from tests.fuzz.records import fuzz


@pytest.mark.slow
def test_two_cases_of_each_layout_end_as_they_must():
    """In a process of their own: they fork, which this one with its JAX must not."""
    kinds, count = list(sources.SETS), 2 * len(sources.SETS)
    work = functools.partial(sources.work, kinds)
    counts = fuzz(list(range(count)), seed=5, target=work)
    assert not counts["failures"], counts
    assert counts["fine"] + counts["counted_bad"] + counts["refused"] == count
    assert set(counts["kinds"]) == set(kinds) and counts["counted_bad"] > 10


def test_cases_depend_on_kind_seed_and_number_only(tmp_path):
    made = []
    for turn in "ab":
        (tmp_path / turn).mkdir()
        what, root, _ = sources.build("transkribus", 1, 3, tmp_path / turn)
        made.append(
            (what, {p.relative_to(root): p.read_bytes() for p in root.rglob("*.*") if p.is_file()})
        )
    assert made[0] == made[1]


def test_a_line_that_vanishes_is_a_failure(monkeypatch):
    """Where only images were corrupted, every line is a record or a reason."""
    real = sources.judge_conversion
    monkeypatch.setattr(
        sources, "build", lambda *_: ("nothing", sources.sound("characters")[0], True)
    )
    assert "failure" not in sources.run_case(["characters"], 0, 0, 512.0)

    def loses(flags, output):
        outcome, read, skipped = real(flags, output)
        return outcome, read - 1, skipped

    monkeypatch.setattr(sources, "judge_conversion", loses)
    assert "of 4 lines 3 are records" in sources.run_case(["characters"], 0, 0, 512.0)["failure"]
