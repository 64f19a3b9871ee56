"""Who may import whom: the rooms of the house, read from the syntax trees of all files."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dig_jax"

# A room, and what it may import of ours besides itself. "room.file" opens that file alone,
# "*" every room but main. docs/architecture.svg draws the same.
PICTURE = """
    prng           nothing
    text           nothing
    trees          nothing
    hosts          nothing
    losses         nothing
    augment        nothing
    models         losses augment.resample
    data           text
    sharding       trees
    methods        models augment losses text prng trees
    config         methods text trees workdir hosts
    workdir        text trees hosts config sharding data
    evaluators     text trees hosts sharding prng data models workdir train.feature_cache
    train          text trees hosts sharding prng data methods losses models evaluators workdir config
    load           text trees hosts sharding data methods models workdir config interop
    interop        text trees hosts sharding data methods models workdir config load
    pages          data text
    main           train hosts config
    tools          *
    __main__       *
    __init__       load
"""
ALLOWED = {room: set(names) for room, *names in map(str.split, PICTURE.strip().splitlines())}
# Rooms that may know ml_collections: the others are handed plain values.
CONFIGURED = {"main", "train", "tools"}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which this test cannot judge"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def files() -> dict[Path, tuple[str, set[str]]]:
    """{path: (its room, what it imports)} of the whole package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    room = lambda path: path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {path: (room(path), imported(path)) for path in paths}


FILES = files()


def faults(room: str, names: set[str]) -> list[str]:
    """The imports of a file in `room` that the picture forbids."""
    allowed = ALLOWED[room] | {room}
    wrong = []
    for name in sorted(n.removeprefix("dig_jax.") for n in names if n.startswith("dig_jax.")):
        open_doors = {name.split(".")[0], ".".join(name.split(".")[:2])}
        anything = "*" in allowed and "main" not in open_doors
        if not anything and not open_doors & allowed:
            wrong.append(name)
    return wrong


def test_every_room_is_in_the_picture():
    rooms = {room for room, _ in FILES.values()}
    assert rooms <= set(ALLOWED), f"add to PICTURE: {rooms - set(ALLOWED)}"


def test_rooms_import_only_what_the_picture_allows():
    wrong = {
        str(path.relative_to(ROOT)): found
        for path, (room, names) in FILES.items()
        if (found := faults(room, names))
    }
    assert not wrong, f"imports that PICTURE forbids: {wrong}"


def test_the_picture_forbids():
    assert faults("models", {"dig_jax.data.records"}) == ["data.records"]
    assert faults("evaluators", {"dig_jax.train.loop"}) == ["train.loop"]
    assert not faults("evaluators", {"dig_jax.train.feature_cache.FeatureCache", "numpy"})
    assert faults("tools", {"dig_jax.main"}) == ["main"]


def test_methods_share_only_what_is_shared():
    """One paper a file: a method imports no other method."""
    for path, (room, names) in FILES.items():
        if room == "methods":
            inside = {n.split(".")[2] for n in names if n.startswith("dig_jax.methods.")}
            assert inside <= {"shared"}, f"{path} imports another method: {inside - {'shared'}}"


def test_configs_stay_outside():
    """No file of the package imports a config, and few know what a config is made of."""
    for path, (room, names) in FILES.items():
        tops = {name.split(".")[0] for name in names}
        assert "configs" not in tops, f"{path} imports configs"
        assert "ml_collections" not in tops or room in CONFIGURED, f"{path} reads a config"


def test_configs_import_only_their_presets():
    for path in sorted((ROOT / "configs").rglob("*.py")):
        names = imported(path)
        heavy = {n.split(".")[0] for n in names} & {"jax", "flax", "optax", "configs"}
        assert not heavy, f"{path} imports {heavy}"
        ours = {n for n in names if n.startswith("dig_jax")}
        assert ours <= {"dig_jax.configs.common"}, f"{path} imports {ours}"


def test_one_method_and_one_evaluator_a_file():
    for folder, name in (("methods", "Method"), ("evaluators", "Evaluator")):
        for path in (PACKAGE / folder).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
            if path.stem not in (
                "__init__",
                "scoring",
                "intervals",
                "lines",
                "as_texts",
                "attention",
            ):
                assert classes.count(name) == 1, path


# Grew over 400 lines when the code was formatted; whoever splits one takes it off.
TO_SPLIT = {"ccd.py", "pipeline.py", "vit.py"}


def test_no_grab_bags_and_no_giants():
    for path in [*FILES, *(ROOT / "configs").rglob("*.py")]:
        assert "utils" not in path.stem, path
        if path.name not in TO_SPLIT:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 400, f"{path} has {lines} lines"
