"""How much is read to believe DiG's loss: every line of every name that its step reaches.

Names are followed through four places: DiG's file, the loss library, the training step and what
methods share. Lines are counted as they stand, with docstrings, comments and blank lines. The
network's own parts (encoder, heads, recipes) are elsewhere and are not counted, nor is the
constructor but for what it sets on `self`: the rest of it refuses wrong arguments.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dig_jax"
AT_MOST = 450
PLACES = {
    path.stem: ast.parse(path.read_text("utf-8"))
    for path in (
        PACKAGE / "methods/dig.py",
        PACKAGE / "losses.py",
        PACKAGE / "train/step.py",
        *sorted((PACKAGE / "methods/shared").glob("[!_]*.py")),
    )
}
# Equal to what is read, by tests/test_losses_contrast.py::test_chunked_equals_plain.
APART = {("losses", "_chunked_totals")}
METHOD, NETWORK = ("dig", "Method"), ("dig", "Network")
# The step names the rest; `accumulate` calls the loss, and `state` makes the teacher.
FIRST = [
    ("step", "train_step"),
    ("dig", "Method.loss"),
    ("base", "WithTeacher.init_teacher"),
]


def stored(node) -> list[str]:
    """What an assignment sets: "x", or "self.x"."""
    return [
        ast.unparse(part)
        for part in ast.walk(node)
        if isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store)
    ]


def definitions() -> dict[tuple[str, str], list[ast.AST]]:
    """{(file, name or "Class.name"): the statements that define it}."""
    found: dict[tuple[str, str], list[ast.AST]] = {}
    for file, tree in PLACES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault((file, node.name), []).append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for name in stored(node):
                    found.setdefault((file, name), []).append(node)
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if not isinstance(inner, ast.FunctionDef):
                    continue
                found.setdefault((file, f"{node.name}.{inner.name}"), []).append(inner)
                for part in ast.walk(inner) if inner.name in ("__init__", "setup") else ():
                    names = stored(part) if isinstance(part, ast.Assign) else []
                    for name in names:
                        if name.startswith("self."):
                            key = (file, f"{node.name}.{name[5:]}")
                            found.setdefault(key, []).append(part)
    return found


DEFINED = definitions()


def named(file, node):
    """The definition that `name` or `file.name` means in this file, or None."""
    key = None
    if isinstance(node, ast.Name):
        key = file, node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        key = node.value.id, node.attr
    return key if key in DEFINED else None


def lineage(owner):
    """A class and those it inherits from, as far as they are defined here."""
    bases = [named(owner[0], base) for base in DEFINED[owner][0].bases]
    return [owner, *(one for base in bases if base for one in lineage(base))]


def member(owner, name):
    """The definition of `self.name` in a class, or None."""
    keys = [(file, f"{cls}.{name}") for file, cls in lineage(owner)]
    return next((key for key in keys if key in DEFINED), None)


def reached(key, node):
    """The definitions that a statement of the definition `key` names."""
    file, name = key
    owner = (file, name.split(".")[0])
    owner = METHOD if owner in lineage(METHOD) else owner
    for part in ast.walk(node):
        yield named(file, part)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            if part.value.id == "self" and owner in DEFINED:
                yield member(owner, part.attr)
            elif part.value.id == "method":  # what the step calls
                yield member(METHOD, part.attr)
        elif isinstance(part, ast.Constant) and owner == METHOD:  # self.apply(params, "decode")
            yield member(NETWORK, part.value)


def read(first) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """{definition: its lines}, of all that is reached from `first`. Of a class the head is read
    where it has one, its docstring and its fields; of a method's class nothing."""
    seen, ahead = {}, list(first)
    while ahead:
        key = ahead.pop()
        if key in seen or key in APART:
            continue
        seen[key] = set()
        for node in DEFINED[key]:
            begin = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            parts, end = [node], node.end_lineno
            if isinstance(node, ast.ClassDef):
                parts = [part for part in node.body if not isinstance(part, ast.FunctionDef)]
                own = [part.end_lineno for part in parts]
                end = begin - 1 if key in lineage(METHOD) else max([begin, *own])
            seen[key] |= {(key[0], line) for line in range(begin, end + 1)}
            ahead += [to for part in parts for to in reached(key, part) if to]
    return seen


def test_the_loss_of_dig_is_believed_after_450_lines():
    names = read(FIRST)
    lines = set().union(*names.values())
    longest = sorted(names, key=lambda key: -len(names[key]))[:15]
    told = "\n".join(f"{len(names[key]):4} {'.'.join(key)}" for key in longest)
    print(f"{len(names)} names, {len(lines)} lines; the longest:\n{told}")
    assert len(lines) <= AT_MOST, told


def test_names_are_followed():
    """Into the network by its parts' names, into the loss through the constructor, into bases."""
    names = read(FIRST)
    assert {
        ("dig", "Network.instances"),
        ("dig", "Network.pix_decoder"),
        ("dig", "TEACHER_PARTS"),
        ("losses", "info_nce"),
        ("losses", "_cross_entropy"),
        ("losses", "masked_mse"),
        ("pixels", "pixel_target"),
        ("contrast", "rows"),
        ("base", "cosine_momentum"),
        ("two_views", "encode"),
    } <= set(names)
    assert not {name for file, name in names if file in ("pretext", "classes")}
    assert set(APART) <= set(DEFINED)
