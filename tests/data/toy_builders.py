"""TFDS builders of the tests: words with a text, and characters with a class."""

import io

import numpy as np
import tensorflow_datasets as tfds

from tests.data.made import png

COUNTS = {"train": 5, "test": 2}


class Words(tfds.core.GeneratorBasedBuilder):
    """A number, a picture, and its text."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "number": tfds.features.Scalar(np.int64),
            "picture": tfds.features.Image(shape=(None, None, 1)),
            "transcription": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), homepage="https://words.example",
            citation="@misc{words}", license="CC0",
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        for i in range(COUNTS[split]):
            yield i, self.example(split, i)

    def example(self, split, i):
        image = io.BytesIO(png(i, 60 + i))
        return {"number": i, "picture": image, "transcription": f"wörd {split} {i}"}


class Characters(Words):
    """A picture and its class."""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(24, 60, 1)),
            "label": tfds.features.ClassLabel(names=["ka", "kha", "ga"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def example(self, split, i):
        return {"image": io.BytesIO(png(i)), "label": i % 3}
