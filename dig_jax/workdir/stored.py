"""What lies on disk of the checkpoints of a run: steps, files, shapes, and sentences about damage.

Reads only, and needs no Checkpoints object.
"""

from __future__ import annotations

import re
from typing import Any

from dig_jax import trees
from dig_jax.workdir import bucket, checksums

FOLDER = "checkpoints"
COMMITTED = "commit_success.txt"  # Orbax writes it last


class Damaged(ValueError):
    """A checkpoint on disk is not what was written; the message is one sentence for the user."""


def steps(workdir: str) -> list[int]:
    """Committed steps of a work folder, ascending, broken ones too; [] where there are none. Reads
    only.
    """
    folder = bucket.path(workdir) / FOLDER
    if not folder.is_dir():
        return []
    # A commit is a rename, so a folder named by a number is committed. In a bucket, which cannot
    # rename, a file says so.
    remote = bucket.remote(workdir)
    named = (p for p in folder.iterdir() if p.name.isdigit())
    return sorted(
        int(p.name) for p in named if ((p / COMMITTED).exists() if remote else p.is_dir())
    )


def step_folder(workdir: str, step: int) -> Any:
    """The folder of a step, a path as `bucket.path` gives it."""
    return bucket.whole(f"{workdir}/{FOLDER}/{step}")


def shapes_of(workdir: str, step: int) -> dict[str, tuple[int, ...]]:
    """{path of a leaf: its shape} of a checkpoint's state."""
    from orbax.checkpoint import v1 as ocp  # here: bench_step runs without it

    try:
        tree = ocp.metadata(step_folder(workdir, step), "state").metadata
        leaves = trees.named_leaves(tree)
    except Exception as error:
        raise damaged(workdir, step, reason(error)) from error
    shapes = {n: tuple(leaf.shape) for n, leaf in leaves.items() if hasattr(leaf, "shape")}
    if not shapes:  # Orbax takes a folder whose files it cannot read for one of another kind
        raise damaged(workdir, step, "its files do not describe any array")
    return shapes


def check_files(workdir: str, step: int, contents: bool = True) -> None:
    """Raises Damaged where the files of a step are not those that were written."""
    folder = step_folder(workdir, step)
    fault = checksums.fault(str(folder), contents)
    if fault is None and not (folder / "state").is_dir():
        fault = "its folder state is missing"
    if fault:
        raise damaged(workdir, step, fault)


def damaged(workdir: str, step: int, why: str) -> Damaged:
    """The sentence: what is broken, which other step is whole, how to go on."""
    folder = step_folder(workdir, step)
    others = [
        s for s in steps(workdir) if s != step and checksums.exist(str(folder.parent / str(s)))
    ]
    whole = [s for s in others if not checksums.fault(str(folder.parent / str(s)))]
    move = "gcloud storage mv" if bucket.remote(workdir) else "mv"
    go_on = (
        f"step {whole[-1]} is whole: to go on from it, move the broken one out of the way ({move} "
        f"{folder} {folder.parent.parent}/broken-{step}) and run the same command again"
        if whole
        else "there is no other whole one: bring it back from a copy, or start again in another "
        "--workdir"
    )
    return Damaged(f"the checkpoint {folder} is broken ({why}); nothing was changed; {go_on}")


DISK = (
    "No space left on device|Disk quota exceeded|Read-only file system|File too large|"
    "Input/output error|Permission denied"
)


def reason(error: BaseException) -> str:
    """A few words about what went wrong inside Orbax, whose own are a page long."""
    link: BaseException | None = error
    while link is not None:
        if found := re.search(DISK, str(link)):
            return found[0].lower()
        link = link.__cause__ or link.__context__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def check_tree(abstract: Any, saved: dict[str, tuple[int, ...]], what: str, mend: str) -> None:
    """ValueError with one sentence that names the leaves in which the two trees differ."""
    wanted = {n: tuple(leaf.shape) for n, leaf in trees.named_leaves(abstract).items()}
    differ = [
        f"{n} is {saved[n]} there and {wanted[n]} here"
        for n in sorted(wanted.keys() & saved.keys())
        if wanted[n] != saved[n]
    ]
    differ += [f"{n} is missing there" for n in sorted(wanted.keys() - saved.keys())]
    differ += [f"{n} is only there" for n in sorted(saved.keys() - wanted.keys())]
    if differ:
        more = f", and {len(differ) - 4} more" if len(differ) > 4 else ""
        raise ValueError(f"{what} does not fit this model ({'; '.join(differ[:4])}{more}): {mend}")
