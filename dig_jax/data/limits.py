"""Which lines of a mixture a recogniser can learn from, known before anything is compiled.

Left out, counted and named are three kinds. Records without a label; lines far wider than all
others (a batch is as wide as its widest line); labels with more characters than the reader has
frames for, of which CTC needs one more between equal characters.
"""

from collections.abc import Sequence

import numpy as np

from dig_jax.data.records import Mixture

# A line is out of proportion when it is wider than all three of these.
WIDE_SHARE = 0.005  # all but this share of the lines (at least one) ...
WIDE_FACTOR = 4  # ... so many times,
WIDE_ASPECT = 64  # and its own height so many times
WARN_SHARE = 0.01  # of labels that are too long for their line


def widest_px(
    widths: np.ndarray,
    height_px: int,
    max_width_px: int | None = None,
    buckets_px: Sequence[int] | int | str = "auto",
) -> int:
    """The width in px above which lines are left out.

    widths: i[n], at height_px. max_width_px decides where it is given; a list of buckets says it
    all and is obeyed. Else the widths themselves: at most 1 line in 200 can be left out.
    """
    if max_width_px is not None:
        return max_width_px
    widest = int(np.max(widths))
    if not isinstance(buckets_px, str | int) or len(widths) < 2:
        return widest
    spared = max(1, int(len(widths) * WIDE_SHARE))
    usual = int(np.partition(widths, len(widths) - 1 - spared)[len(widths) - 1 - spared])
    return min(widest, max(WIDE_FACTOR * usual, WIDE_ASPECT * height_px))


def learnable(
    mixture: Mixture,
    *,
    height_px: int,
    frame_px: int | None = None,
    squeeze_px: int | None = None,
    max_width_px: int | None = None,
    buckets_px: Sequence[int] | int | str = "auto",
    ctc: bool = True,
) -> tuple[Mixture, list[str]]:
    """(the mixture without the lines that cannot be learnt, one sentence for each kind of them).

    frame_px: width of one frame of the encoder; None leaves the labels unchecked. ctc: repeated
    characters need a frame between them. ValueError where nothing is left.
    """
    total, told = len(mixture), []
    labelled = mixture.label_chars >= 0
    if not labelled.any():
        raise ValueError(
            f"none of the {total} records has a label, but a recogniser needs labels: "
            "give labelled records in data.train, or pre-train"
        )
    if not labelled.all():
        told.append(f"{(~labelled).sum()} of {total} records have no label and are left out")
        mixture = mixture.keep(labelled)
    widths = np.full(len(mixture), squeeze_px) if squeeze_px else mixture.widths(height_px)
    if not squeeze_px:
        most = widest_px(widths, height_px, max_width_px, buckets_px)
        if (wide := widths > most).any():
            told.append(_wide(mixture, widths, wide, most, height_px))
            mixture, widths = mixture.keep(~wide), widths[~wide]
    if frame_px is not None:
        needed = mixture.frames_needed if ctc else mixture.label_chars
        short = needed > -(-widths // frame_px)
        if short.any():
            told.append(_too_long(mixture, widths, needed, short, frame_px))
            mixture = mixture.keep(~short)
    return mixture, told


def _wide(mixture: Mixture, widths: np.ndarray, wide: np.ndarray, most: int, height_px: int) -> str:
    first = int(np.flatnonzero(wide)[np.argmax(widths[wide])])
    what = (
        f"{wide.sum()} of {len(wide)} lines are wider than {most} px at height {height_px}, "
        f"such as {mixture.where(first)} ({widths[first]} px)"
    )
    if wide.all():
        raise ValueError(f"{what}, so no line is left: raise config.data.max_width_px")
    return f"{what}, and are left out: to keep them, raise config.data.max_width_px"


def _too_long(
    mixture: Mixture, widths: np.ndarray, needed: np.ndarray, short: np.ndarray, frame_px: int
) -> str:
    first = int(np.flatnonzero(short)[0])
    share = f"{short.mean():.1%}" if short.mean() >= 0.001 else "under 0.1%"
    what = (
        f"{short.sum()} of {len(short)} labels ({share}) need more frames than their line has, one "
        f"each {frame_px} px: {mixture.where(first)} needs {needed[first]} and has "
        f"{-(-int(widths[first]) // frame_px)}"
    )
    mend = (
        "look whether labels and lines belong together and lines lie level, or take a larger "
        "config.data.height_px or a narrower patch"
    )
    if short.all():
        raise ValueError(f"{what}, so nothing can be learnt: {mend}")
    warning = "warning: " if short.mean() >= WARN_SHARE else ""
    return f"{warning}{what}; they are left out: {mend}"


def out_of_memory(error: Exception, batch_shape: Sequence[int]) -> str:
    """One sentence that names the widest batch [B, H, W, C]; "" for an error of another kind."""
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
        return ""
    rows, height_px, width_px, _ = batch_shape
    return (
        f"out of memory. The widest batch of this host is {rows} lines of {height_px} x {width_px} "
        "px: lower config.batch_size, config.data.max_width_px (lines) or config.data.width_px "
        f"(windows), or set config.accumulate (it says: {' '.join(str(error).split())[:200]})"
    )
