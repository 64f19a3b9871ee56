"""Rules by the side-by-side table, rates by hand, intervals against slow loops."""

import collections
import random

import numpy as np
import pytest

from dig_jax.evaluators import intervals, scoring
from dig_jax.text import Charset

DROPPED = None


def distance(a, b):
    """Levenshtein's recurrence, cell by cell."""
    cost = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            cost[i][j] = min(change, cost[i - 1][j] + 1, cost[i][j - 1] + 1)
    return cost[-1][-1]


# One truth and reading a row; what each rule compares, side by side.
SIDE_BY_SIDE = [
    (
        ("It's", "ITS"),
        {
            "raw": ("It's", "ITS"),
            "waics": ("its", "its"),
            "parseq36": ("its", "its"),
            "parseq62": ("Its", "ITS"),
            "parseq94": ("It's", "ITS"),
            "clova": DROPPED,  # an apostrophe is outside its 36 characters
            "union14m": ("its", "its"),
        },
    ),
    (
        ("Main  St. ", " Main St."),  # Union14M's words hold spaces; PARSeq deletes them
        {
            "raw": ("Main St.", "Main St."),
            "waics": ("mainst", "mainst"),
            "parseq36": ("mainst", "mainst"),
            "parseq62": ("MainSt", "MainSt"),
            "parseq94": ("MainSt.", "MainSt."),
            "clova": DROPPED,
            "union14m": ("mainst", "mainst"),
        },
    ),
    (
        ("cafe\u0301", "cafe"),  # accents: lost, or reduced to the base letter
        {
            "raw": ("caf\u00e9", "cafe"),
            "waics": ("caf", "cafe"),
            "parseq36": ("cafe", "cafe"),
            "parseq62": ("cafe", "cafe"),
            "parseq94": ("cafe", "cafe"),
            "clova": DROPPED,
            "union14m": ("cafe", "cafe"),  # drops the combining mark only
        },
    ),
    (
        ("?!", ""),  # nothing that counts: DiG and MMOCR call it right, PARSeq leaves it out
        {
            "raw": ("?!", ""),
            "waics": ("", ""),
            "parseq36": DROPPED,
            "parseq62": DROPPED,
            "parseq94": ("?!", ""),
            "clova": DROPPED,
            "union14m": ("", ""),
        },
    ),
    (
        ("a" * 26, "a" * 26),  # longer than 25
        {
            "raw": ("a" * 26,) * 2,
            "waics": ("a" * 26,) * 2,
            "parseq36": DROPPED,
            "parseq62": DROPPED,
            "parseq94": DROPPED,
            "clova": DROPPED,
            "union14m": ("a" * 26,) * 2,
        },
    ),
    (
        ("Exit^2\u51fa", "exit2"),
        {
            "raw": ("Exit^2\u51fa", "exit2"),
            "waics": ("exit2", "exit2"),
            "parseq36": ("exit2", "exit2"),
            "parseq62": ("Exit2", "exit2"),
            "parseq94": ("Exit^2", "exit2"),
            "clova": DROPPED,
            "union14m": ("exit^2\u51fa", "exit2"),
        },
    ),
    (
        ("SALE50", "sale-50"),
        {
            "raw": ("SALE50", "sale-50"),
            "waics": ("sale50", "sale50"),
            "parseq36": ("sale50", "sale50"),
            "parseq62": ("SALE50", "sale50"),
            "parseq94": ("SALE50", "sale-50"),
            "clova": ("sale50", "sale50"),
            "union14m": ("sale50", "sale50"),
        },
    ),
]


@pytest.mark.parametrize("pair, expected", SIDE_BY_SIDE, ids=lambda x: str(x)[:12])
def test_rules_side_by_side(pair, expected):
    assert expected.keys() == scoring.RULES.keys()
    for name, compared in expected.items():
        assert scoring.find_rule(name)(*pair) == compared, name


def test_parseq_measures_a_truth_before_characters_are_removed():
    """24 letters and three commas are 27 characters, hence dropped; as many spaces are not."""
    assert scoring.RULES["parseq36"]("a" * 24 + ",,,", "") is None
    assert scoring.RULES["parseq36"]("a " * 24, "a" * 24) == ("a" * 24, "a" * 24)


def test_an_unknown_rule_is_a_sentence():
    with pytest.raises(ValueError, match="'exact'.*choose one of raw, waics"):
        scoring.count([("a", "a")], "exact")


def test_rates_by_hand():
    """ "No. 5" read as "no5": N for n, the point and the space missed, so 3 edits of 5 characters;
    both words wrong. 1 - 3 / 5 beside a perfect line: (0.4 + 1) / 2.
    """
    pairs = [("No. 5", "no5"), ("tin sun", "tin  sun ")]
    assert scoring.score(pairs) == {
        "lines": 2,
        "cer": 3 / 12,
        "wer": 2 / 4,
        "word_accuracy": 1 / 2,
        "one_minus_ned": pytest.approx(0.7),
    }
    alnum = scoring.score(pairs, "waics")
    assert (alnum["cer"], alnum["word_accuracy"], alnum["one_minus_ned"]) == (0, 1, 1)
    assert scoring.score([("", "ab")])["cer"] == 2 and scoring.score([])["cer"] == 0
    assert scoring.score([("", "")])["one_minus_ned"] == 1
    assert scoring.score([("ab", "")])["one_minus_ned"] == 0


def test_rates_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ab1."), rng.integers(1, 12))) for _ in range(40)]
    pairs = list(zip(texts[::2], texts[1::2]))
    rates = scoring.score(pairs)
    assert rates["cer"] == sum(distance(*p) for p in pairs) / sum(len(t) for t, _ in pairs)
    nearness = [1 - distance(t, r) / max(len(t), len(r)) for t, r in pairs]
    assert rates["one_minus_ned"] == pytest.approx(sum(nearness) / len(nearness))


def test_a_dropped_pair_counts_nothing_and_keeps_its_place():
    counts = scoring.count([("ab", "ab"), ("?", "x"), ("cd", "c")], "parseq36")
    assert counts[:, 0].tolist() == [1, 0, 1] and not counts[1].any()
    assert scoring.rates(counts.sum(axis=0))["word_accuracy"] == 1 / 2


def test_plain_and_weighted_averages():
    """The first row of CCD's table of 1 % labels: its mean of 62.9 is weighted."""
    sets = {
        "IIIT": (88.4, 3000), "SVT": (86.2, 647), "IC13": (89.9, 1015), "IC15": (79.0, 1811),
        "SVTP": (76.6, 645), "CUTE": (77.8, 288), "COCO": (54.8, 9896), "CTW": (67.9, 1572),
        "TT": (67.2, 2201), "HOST": (33.2, 2416), "WOST": (53.3, 2416),
    }  # fmt: skip
    values = {name: value for name, (value, _) in sets.items()}
    lines = {name: size for name, (_, size) in sets.items()}
    means = scoring.averages(values, lines)
    assert means["plain"] == pytest.approx(70.4, abs=0.05)
    assert means["weighted"] == pytest.approx(62.9, abs=0.14)  # all rows within this
    with pytest.raises(ValueError, match="no set"):
        scoring.averages({}, {})


def test_alignments_by_hand():
    """tin -> tim: n as m. see -> se: an e missed. it -> iut: a u inserted. All else is right."""
    aligned = scoring.alignments([("tin", "tim"), ("see", "se"), ("it", "iut")])
    right = {(c, c): n for c, n in {"t": 2, "i": 2, "s": 1, "e": 1}.items()}
    assert aligned == right | {("n", "m"): 1, ("e", ""): 1, ("", "u"): 1}
    assert scoring.confusions(aligned, 2) == [(("", "u"), 1), (("e", ""), 1)]
    rows = {row["char"]: row for row in scoring.by_character(aligned)}
    keys = ("count", "mistaken", "missed", "inserted", "read_as")
    assert [rows["e"][key] for key in keys] == [2, 0, 1, 0, ""]
    assert [rows["n"][key] for key in keys] == [1, 1, 0, 0, "m"]
    assert [rows["u"][key] for key in keys] == [0, 0, 0, 1, ""]
    assert [row["char"] for row in scoring.by_character(aligned)][:3] == ["e", "n", "u"]


def test_alignments_account_for_every_edit():
    rng = random.Random(1)
    texts = ["".join(rng.choices("abc", k=rng.randrange(9))) for _ in range(60)]
    pairs = list(zip(texts[::2], texts[1::2]))
    aligned = scoring.alignments(pairs)
    assert sum(n for _, n in scoring.confusions(aligned)) == sum(distance(*p) for p in pairs)
    truths = collections.Counter("".join(t for t, _ in pairs))
    counted = {row["char"]: row["count"] for row in scoring.by_character(aligned)}
    assert counted == dict(truths)


def test_characters_that_the_charset_lacks():
    found = scoring.lacking(["tînt", "tin î", "§"], Charset(" nti"))
    assert found == {"î": 2, "§": 1}
    assert scoring.named("a\u0364"[1]) == "U+0364 COMBINING LATIN SMALL LETTER E"
    assert (scoring.named("§"), scoring.named(" "), scoring.named("")) == ("§", "U+0020 SPACE", "")


def test_share_of_empty_readings():
    assert scoring.commonest_reading([("a", ""), ("b", "x"), ("c", ""), ("", "")]) == ("", 2 / 3)
    assert scoring.commonest_reading([("a", "e"), ("b", "e"), ("", "")]) == ("e", 1.0)
    assert scoring.commonest_reading([("a", "a"), ("a", "a"), ("b", "a")]) == ("", 0.0)
    assert scoring.commonest_reading([("a", ""), ("a", ""), ("b", "")]) == ("", 1.0)
    assert scoring.commonest_reading([("a", ""), ("b", " ")]) == ("", 1.0)
    assert scoring.commonest_reading([]) == ("", 0.0)


# ---- intervals ----------------------------------------------------------------------------------

WORKS = ["a/1", "a/2", "b/1", "a/3", "c/1", "c/2"]


def test_groups_from_paths():
    assert intervals.group_ids(WORKS).tolist() == [0, 1, 2, 3, 4, 5]
    assert intervals.group_ids(WORKS, "^[^/]+").tolist() == [0, 0, 1, 0, 2, 2]
    assert intervals.group_ids(WORKS, "^([^/]+)/").tolist() == [0, 0, 1, 0, 2, 2]
    two = intervals.group_ids(["x_1_p2", "x_2_p2", "y_3_p2", "x_4_p3"], r"^(\w)_\d_(p\d)")
    assert two.tolist() == [0, 0, 1, 2]  # the capture groups together, not all that matched
    with pytest.raises(ValueError, match="3 of 6 paths, such as 'b/1'"):
        intervals.group_ids(WORKS, "^a")
    with pytest.raises(ValueError, match="no regular expression"):
        intervals.group_ids(WORKS, "(")


def counts_of(errors):
    """One line of ten characters for each number of errors."""
    return scoring.count([("a" * 10, "a" * (10 - n)) for n in errors])


def slow_bootstrap(errors, groups, samples):
    """CER of each resample of whole groups, in plain Python."""
    rng = random.Random(0)
    members = collections.defaultdict(list)
    for error, group in zip(errors, groups):
        members[group].append(error)
    names, rates = sorted(members), []
    for _ in range(samples):
        drawn = [e for name in rng.choices(names, k=len(names)) for e in members[name]]
        rates.append(sum(drawn) / (10 * len(drawn)))
    return rates


def test_of_no_line_there_is_no_interval():
    counts, groups = scoring.count([]), intervals.group_ids([])
    assert np.isnan(intervals.interval(counts, groups)).all()
    assert np.isnan(intervals.compare(counts, counts, groups).p)


@pytest.mark.parametrize("pattern", [None, "^[^/]+"])
def test_intervals_equal_a_slow_bootstrap(pattern):
    rng = np.random.default_rng(0)
    works = [f"{w}/{i}" for w in range(12) for i in range(1 + w % 5)]
    level = {str(w): int(rng.integers(7)) for w in range(12)}
    errors = [level[path.split("/")[0]] + int(rng.integers(3)) for path in works]
    groups = intervals.group_ids(works, pattern)
    slow = slow_bootstrap(errors, groups.tolist(), 4000)
    low, high = intervals.interval(counts_of(errors), groups)
    assert (low, high) == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist(), abs=0.012)
    by_line = intervals.interval(counts_of(errors), intervals.group_ids(works))
    assert pattern is None or high - low > 1.3 * (by_line[1] - by_line[0])


def test_chunks_change_nothing(monkeypatch):
    sums = np.random.default_rng(0).random((9, 7))
    monkeypatch.setattr(intervals, "CHUNK", 9 * 7)
    assert intervals.resample(sums, 20).shape == (20, 7)
    ones = intervals.resample(np.ones((9, 7)), 20)
    assert (ones == 9).all()  # nine groups a resample, whatever was drawn


def test_one_group_has_no_interval():
    low, high = intervals.interval(counts_of([1, 2]), np.zeros(2, int))
    assert np.isnan(low) and np.isnan(high)
    alone = intervals.compare(counts_of([1, 2]), counts_of([3, 2]), np.zeros(2, int))
    assert alone.value == pytest.approx(-0.1) and np.isnan(alone.p) and not alone.is_real


def test_dropped_lines_are_no_groups():
    counts = counts_of([1, 2, 3])
    counts[1] = 0
    assert len(intervals.group_sums(counts, np.arange(3))) == 2


def test_a_paired_difference_is_found_where_two_intervals_overlap():
    """B makes one error more on each line of lines that are hard to very different degrees."""
    errors = np.random.default_rng(0).integers(0, 8, 60)
    a, b, lines = counts_of(errors), counts_of(errors + 1), np.arange(60)
    alone = intervals.interval(a, lines), intervals.interval(b, lines)
    assert alone[0][1] > alone[1][0]  # as separate figures they overlap
    found = intervals.compare(a, b, lines)
    assert found.value == pytest.approx(-0.1) and found.is_real and found.p < 0.01
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1))
    same = intervals.compare(a, a, lines)
    assert (same.value, same.low, same.high, same.is_real, same.p) == (0, 0, 0, False, 1)


def test_a_difference_that_one_group_carries_is_not_real():
    """B is much worse on one of 12 works, which has half of the lines, and a little better on all
    others. Lines alone would call it proven.
    """
    groups = np.array([0] * 44 + [1 + i % 11 for i in range(44)])
    a = counts_of([2] * 88)
    b = counts_of([5] * 44 + [1] * 44)
    assert intervals.compare(a, b, np.arange(88)).is_real
    by_work = intervals.compare(a, b, groups)
    assert not by_work.is_real and by_work.groups == 12 and by_work.p > 0.05


def test_the_paired_bootstrap_equals_a_slow_loop():
    rng = random.Random(3)
    one, two = ([rng.randrange(7) for _ in range(40)] for _ in range(2))
    draws = []
    for _ in range(4000):
        chosen = rng.choices(range(40), k=40)
        draws.append(sum(one[i] - two[i] for i in chosen) / 400)
    found = intervals.compare(counts_of(one), counts_of(two), np.arange(40))
    draws = np.array(draws)
    p = 2 * min((draws <= 0).mean(), (draws >= 0).mean())
    assert 0.05 < p < 0.95 and found.p == pytest.approx(p, abs=0.05)
    assert (found.low, found.high) == pytest.approx(
        np.quantile(draws, [0.025, 0.975]).tolist(), abs=0.012
    )


def test_unpaired_lines_are_a_sentence():
    with pytest.raises(ValueError, match="2 and 3 lines cannot be paired"):
        intervals.compare(counts_of([1, 2]), counts_of([1, 2, 3]), np.arange(2))
