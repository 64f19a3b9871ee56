"""tools/word_list: frequent words as a text that rendered lines draw from."""

import collections
import subprocess
import sys
import types

import pytest

from dig_jax.data import extras
from dig_jax.data.sources import lines
from dig_jax.tools import word_list

GERMAN = {"und": 0.03, "das": 0.02, "haus": 1e-4, "süß": 2e-5, "99": 0.01, "selten": 1e-9}
FRENCH = {"de": 0.05, "été": 1e-3, "homme": 1e-3, "un": 0.02}
# A vowel sign, a virama and a nukta are marks, no letters.
HINDI = {"में": 0.03, "हिन्दी": 1e-3, "पढ़": 1e-4, "hidden": 2e-3, "१२": 1e-3, "घर": 1e-4}
PERSIAN = {"می\u200cشود": 1e-3, "کتاب": 1e-3}
RUSSIAN = {"и": 0.03, "windows": 1e-4, "да": 1e-3}
WORDS = {"de": GERMAN, "fr": FRENCH, "hi": HINDI, "fa": PERSIAN, "ru": RUSSIAN}


@pytest.fixture
def wordfreq(monkeypatch):
    """The two functions of the package, over a handful of words."""

    def get_frequency_dict(language, wordlist):
        return WORDS[language]

    module = types.SimpleNamespace(get_frequency_dict=get_frequency_dict)
    module.available_languages = lambda: {"fr": "", "de": ""}
    monkeypatch.setattr(extras, "need", lambda name, extra: module)


def test_words_stand_as_often_as_they_are_frequent(wordfreq):
    found = word_list.words("de", 100)
    assert found == {"und": 9000, "das": 6000, "haus": 30, "süß": 6, "selten": 1}
    assert list(word_list.words("de", 1)) == ["und"]
    with pytest.raises(ValueError, match="'xx': set it to one of de, fr"):
        word_list.words("xx", 5)


def test_a_share_has_a_capital_and_no_word_is_lost(wordfreq):
    found = word_list.capitalized({"und": 100, "rar": 1}, 0.25)
    assert found == {"und": 75, "Und": 25, "rar": 1, "Rar": 1}
    assert word_list.capitalized({"und": 100}, 0) == {"und": 100}


def test_words_of_other_scripts_keep_their_marks_and_joiners(wordfreq):
    assert list(word_list.words("hi", 9)) == ["में", "हिन्दी", "पढ़", "घर"]
    assert list(word_list.words("fa", 9)) == list(PERSIAN)
    assert list(word_list.words("ru", 9)) == ["и", "да"]
    assert word_list.capitalized({"घर": 100, "да": 100}, 0.25) == {"घर": 100, "да": 75, "Да": 25}


def test_french_words_are_elided_before_vowels_alone(wordfreq):
    found = word_list.elided(word_list.words("fr", 9), "fr")
    assert {"l'été", "d'été", "qu'été", "l'homme"} < set(found)
    assert not any(word.endswith(("'de", "'un")) for word in found)
    assert word_list.elided({"un": 9}, "de") == {"un": 9}


@pytest.mark.parametrize(
    ("word", "old"),
    [("Wasser", "Waſſer"), ("das", "das"), ("ist", "iſt"), ("Straße", "Straße"), ("süß", "ſüß"),
     ("s", "s"), ("Schluss", "Schluß"), ("musste", "mußte"), ("grösste", "größte"), ("l's", "l's")],
)  # fmt: skip
def test_long_s(word, old):
    assert word_list.with_long_s(word, "de") == old


def test_a_round_s_stands_at_the_joints_of_german_compounds():
    known = set(
        "haus halt häuser aus sage gehen das ein da sein uns eren vers tand bundes bundestags tags "
        "tag wahlen mis sion mens chen schluss punkt rechts staat bis schen präs ident".split()
    )
    spelt = {
        "Haushalt": "Haushalt", "ausgehen": "ausgehen", "Aussage": "Ausſage", "dasein": "daſein",
        "unseren": "unſeren", "Verstand": "Verſtand", "Bundestagswahlen": "Bundestagswahlen",
        "Mission": "Miſſion", "Menschen": "Menſchen", "Schlusspunkt": "Schlußpunkt",
        "Häuser": "Häuſer", "Rechtsstaat": "Rechtsſtaat", "bisschen": "bißchen",
        "Präsident": "Präſident",
    }  # fmt: skip
    assert {word: word_list.with_long_s(word, "de", known) for word in spelt} == spelt
    assert word_list.with_long_s("ausgehen", "de") == "auſgehen"
    assert word_list.with_long_s("transform", "en", {"trans", "form"}) == "tranſform"


def test_a_share_is_spelt_as_before_1830():
    counts = {"für": 1000, "Ärger": 4, "und": 9}
    found = word_list.before_1830(counts, 0.4)
    assert abs(found.pop("für") - 600) < 2 and abs(found.pop("fu\u0364r") - 400) < 2
    assert found == {"Ärger": 4, "und": 9}
    once = {f"{a}ü{b}": 1 for a in "bdfghklmn" for b in "bdfghklmn"}
    found = word_list.before_1830(once, 0.4)
    assert sum(found.values()) == 81 and 20 < sum("\u0364" in word for word in found) < 45
    assert word_list.before_1830(counts, 0.0) == counts
    assert word_list.before_1830({"süß": 3}, 1.0) == {"su\u0364ß": 3}
    both = {"frei": 100, "frey": 5, "thei": 1, "they": 7}
    assert word_list.before_1830(both, 0.0) == both
    found = word_list.before_1830(both, 0.4)
    assert sum(found.values()) == 113 and 39 <= found["frey"] - 5 <= 41 and found["they"] >= 7
    spelt = {"bei": "bey", "Zwei": "Zwey", "Partei": "Partey", "beide": "beyde", "Bein": "Bein",
             "frei": "frey", "ein": "ein", "beissen": "beissen", "beiſſen": "beiſſen",
             "beim": "beym", "Freiheit": "Freyheit"}  # fmt: skip
    assert {word: word_list.spelt_before_1830(word) for word in spelt} == spelt


def test_other_languages_keep_their_double_s():
    assert word_list.with_long_s("express", "en") == "expreſs"


def test_lines_are_drawn_from_it(wordfreq, tmp_path, monkeypatch):
    output = tmp_path / "deep" / "words.txt"
    options = {
        "language": "de",
        "most": 9,
        "capitals": 0.25,
        "long_s": True,
        "before_1830": 0.5,
        "output": str(output),
    }
    monkeypatch.setattr(word_list, "FLAGS", types.SimpleNamespace(**options))
    word_list.main(["word_list"])
    counts = collections.Counter(output.read_text("utf-8").split())
    assert (
        counts["und"] == 6750
        and counts["Und"] == 2250
        and counts["ſüß"] == counts["ſu\u0364ß"] == 2
    )
    assert lines.read_vocabulary(str(output)).chars >= set("ſüß")
    monkeypatch.setattr(word_list, "FLAGS", types.SimpleNamespace(**options | {"language": "fr"}))
    with pytest.raises(ValueError, match="--before_1830 spells German"):
        word_list.main(["word_list"])


def test_without_the_package_the_command_is_named():
    code = (
        "import sys; sys.modules['wordfreq'] = None\n"
        "from dig_jax.tools import word_list\n"
        "word_list.words('de', 5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'dig_jax[words]'" in done.stderr
