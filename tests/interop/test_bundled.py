"""The weights that ship read what their cards say they read."""

import pytest

import dig_jax
from dig_jax.data import writer
from dig_jax.data.sources import lines
from dig_jax.evaluators import scoring
from dig_jax.interop.model import BUNDLED


def test_print_reads_rendered_lines_that_it_never_saw():
    """Its card: 1.6 % of the characters of lines of its kind are wrong. These are of another seed,
    in the fonts that every machine has."""
    options = {"splits": "validation=48", "fonts": "bundled", "max_words": 4, "workers": 0}
    made = list(lines.examples(report=writer.Report(), seed=77, **options))
    texts = [text for _, _, text, _ in made]
    reader = dig_jax.load_reader("print")
    read = [reading.text for reading in reader.read([image for _, image, _, _ in made])]
    rates = scoring.score(list(zip(texts, read)))
    assert sum(map(len, texts)) > 500 and rates["cer"] < 0.025


def bundled_lines(name):
    """(paths, texts) of the lines that ship with a reader; it was not trained on them."""
    folder = BUNDLED / name / "lines"
    rows = [row.split("\t") for row in (folder / "labels.tsv").read_text("utf-8").splitlines()]
    return [folder / path for path, _ in rows], [text for _, text in rows]


def test_fraktur_reads_its_own_lines():
    """Its card: 1.5 % of the characters of lines of its kind are wrong."""
    paths, texts = bundled_lines("fraktur")
    read = [line.text for line in dig_jax.load_reader("fraktur").read(paths)]
    assert sum(map(len, texts)) > 200 and scoring.score(list(zip(texts, read)))["cer"] < 0.03


def test_hands_reads_its_own_lines_with_the_n_gram_that_it_brings_along():
    """Its card: about a quarter fewer errors than without. Lines that it was not trained on."""
    paths, texts = bundled_lines("hands")
    cers = {}
    for search in ({}, {"beam": 1}):
        reader = dig_jax.load_reader("hands", **search)
        read = [line.text for line in reader.read(paths)]
        cers[len(search)] = scoring.score(list(zip(texts, read)))["cer"]
    assert sum(map(len, texts)) > 150 and cers[0] < cers[1] < 0.3, cers


def test_an_encoder_that_is_asked_to_read_says_how_to_train_a_reader_on_it():
    command = "dig-jax import --layout=dig_jax --input=gen48 --output=gen48"
    with pytest.raises(ValueError, match=f"holds an encoder and no reader: .*`{command}` makes a"):
        dig_jax.load_reader("gen48")
