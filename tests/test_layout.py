"""The house stays as docs/layout.md draws it: rooms in one order, models asked for what they declare, small files."""

import ast
import inspect
from pathlib import Path

import pytest

import gvit.models.gvit
import gvit.models.vit
from gvit.models.base import ImageClassifier
from gvit.models.encoder import GaussianEncoder
from gvit.models.tokens import Tokenizer

HOUSE = Path(gvit.__file__).parent
# from left to right; nothing imports from the right
ROOMS = (
    *("errors", "files", "progress", "gaussians", "losses", "rendering", "models", "analysis", "viewing"),
    *(
        "evaluation",
        "provenance",
        "data",
        "prediction",
        "targets",
        "encoding",
        "engines",
        "export",
        "fitting",
        "training",
        "recipes",
        "reproduction",
        "studio",
        "cli",
    ),
)
FILES = sorted(HOUSE.rglob("*.py"))


def module(file: Path) -> str:
    return ".".join(("gvit", *file.relative_to(HOUSE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module(file) for file in FILES}


def imported(file: Path) -> set[str]:
    """Modules of gvit that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gvit":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "gvit"}
    return names


def test_every_room_is_known():
    rooms = {file.relative_to(HOUSE).parts[0].removesuffix(".py") for file in FILES}
    assert rooms - {"__init__", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=module)
def test_no_room_imports_from_a_room_to_its_right(file):
    room = file.relative_to(HOUSE).parts[0].removesuffix(".py")
    if room not in ROOMS:  # the face and ``python -m gvit`` see everything
        return
    for name in imported(file):
        other = name.split(".")[1] if "." in name else ""
        if other in ROOMS:
            assert ROOMS.index(other) <= ROOMS.index(room), f"{module(file)} imports {name}"


def test_no_two_files_import_each_other():
    known = {module(file): file for file in FILES}
    graph = {name: imported(file) & known.keys() - {name} for name, file in known.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_nobody_asks_for_a_models_class():
    """Models declare what they read; a new one needs no change anywhere else."""
    classes = {ImageClassifier, GaussianEncoder, Tokenizer}
    while any(new := {sub for cls in classes for sub in cls.__subclasses__()} - classes):
        classes |= new
    names = {cls.__name__ for cls in classes if cls.__module__.startswith("gvit.")}
    assert names >= {"GViT", "ViT", "DenoisingEncoder", "PatchTokens"}
    for file in FILES:
        if "models" in file.parts or file.parts[-2:] == ("training", "task.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                assert not asked & names, f"{module(file)}, line {node.lineno}"


def test_files_and_functions_stay_small():
    lines = {module(file): len(file.read_text().splitlines()) for file in FILES}
    assert lines["gvit.training.loop"] <= 250
    assert max(count for name, count in lines.items() if name.startswith("gvit.cli")) <= 200
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                of = node.args
                count = len([*of.posonlyargs, *of.args, *of.kwonlyargs])
                public = (module(file), node.name) == ("gvit.rendering.api", "rasterize")
                # kernels and the operators that call them take what they need as plain arrays
                kernel = ".rendering." in module(file) and not public
                assert count <= 12 or public or kernel, f"{module(file)}: {node.name} has {count} parameters"


def test_configurations_have_few_fields():
    from gvit.training import config

    for name, cls in inspect.getmembers(config, inspect.isclass):
        if cls.__module__ == config.__name__ and hasattr(cls, "__dataclass_fields__"):
            assert len(cls.__dataclass_fields__) <= 12, name
