"""What every record is checked for on its way into a set, whatever its source."""

import re
import unicodedata
from typing import Any

from dig_jax.data.examples import Example, Report, shown
from dig_jax.data.sizes import MAX_ASPECT, BadRecord, header_size
from dig_jax.text import INVISIBLE, normalize

MAX_SIDE_PX = 65535  # the index holds u16
MAX_LABEL_CHARS = 10_000  # a label array is as wide as the longest label, for every line of a batch
UPRIGHT = 2  # times higher than wide: a line that runs downwards
HIDDEN = frozenset(map(chr, INVISIBLE))
NAME = re.compile(r"\w[\w.-]*")


def label_fault(text: str) -> str:
    """Why a normalised label cannot be one ("" where it can)."""
    if not text:
        return "empty label (image kept, unlabelled)"
    if len(text) > MAX_LABEL_CHARS:
        return f"label longer than {MAX_LABEL_CHARS} characters (image kept, unlabelled)"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in set(text)):
        return "label with control characters (image kept, unlabelled)"
    return ""


class Oddities(dict[str, Any]):
    """Counts of what is kept though odd, JSON: "invisible", "upright" and the first upright
    one, "such"."""

    def checked(
        self, example: Example, report: Report
    ) -> tuple[str, bytes, str | None, str, tuple[int, int]] | None:
        """(split, image, normalised text, id, (width, height) in px) of a record, or None where it
        is left out and reported. ValueError for the name of a split that is no file name."""
        split, image, text, id = example
        if not NAME.fullmatch(split):
            raise ValueError(
                f"The split name '{shown(split)}' must be made of letters, digits, '_', '-' and "
                "'.' (not first)."
            )
        try:
            size = header_size(image)
        except BadRecord:
            size = 0, 0  # kept: reading names it, where it stands
        if max(size) > MAX_SIDE_PX:
            report.skip(id, f"wider or higher than {MAX_SIDE_PX} px")
            return None
        if size[0] > MAX_ASPECT * size[1] > 0:
            report.skip(id, f"more than {MAX_ASPECT} times as wide as high")
            return None
        if size[1] > UPRIGHT * size[0] > 0 and (text is None or len(text) > 2):
            self.count("upright")
            self.setdefault("such", shown(id))
        if text is not None:
            self.count("invisible", not HIDDEN.isdisjoint(text))
            text = normalize(text)
            if fault := label_fault(text):
                report.skip(id, fault)
                text = None
        return split, image, text, id, size

    def count(self, what: str, more: int = 1) -> None:
        self[what] = self.get(what, 0) + int(more)

    def add(self, others: dict[str, Any]) -> None:
        """Those of records that come after these."""
        for what, value in others.items():
            if what == "such":
                self.setdefault(what, value)
            else:
                self.count(what, value)

    def notes(self) -> list[str]:
        """Sentences for the manifest."""
        notes = []
        if self.get("upright"):
            notes.append(
                f"{self['upright']} images are more than {UPRIGHT} times as high as wide, such as "
                f"{self['such']}: turn lines that run downwards by 90 degrees first"
            )
        if self.get("invisible"):
            notes.append(
                f"{self['invisible']} labels held zero-width characters (such as U+200B) or marks "
                "of writing direction (such as U+202E), which are taken out"
            )
        return notes
