"""The fuzzer of the sources: two cases of each layout end as they must, and a broken promise is
found.
"""

import pytest

from tests.fuzz import sources
from tests.fuzz.records import summarise


@pytest.mark.slow
def test_two_cases_of_each_layout_end_as_they_must():
    kinds = list(sources.SETS)
    results = [sources.run_case(kinds, 5, number, 512.0) for number in range(2 * len(kinds))]
    failed = [result for result in results if "failure" in result]
    assert not failed, failed[0]
    counts = summarise(results, 5, None)
    assert counts["fine"] + counts["counted_bad"] + counts["refused"] == len(results)
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
