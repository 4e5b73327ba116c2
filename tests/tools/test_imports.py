"""No modules of flowcache import each other in a circle, by an import at any place.

An import at the top, in a function and under `TYPE_CHECKING` count alike. Each means that one
module cannot be understood without the other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flowcache

pytestmark = pytest.mark.once

PACKAGE = "flowcache"
SOURCES = Path(__file__).parents[2] / "src"
FOLDER = SOURCES / PACKAGE


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(folder: Path = FOLDER) -> dict[str, Path]:
    return {name_of(path): path for path in sorted(folder.rglob("*.py"))}


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[tuple[str, str | None]]:
    """Yield each import of the package's own: the module, and the name that is taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                yield base, alias.name


def graph_of(sources: dict[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Return the modules that each module imports. A name that is a module counts as that module.

    A package that stands above both is no import of its own: `from . import sibling` asks for the
    sibling.
    """
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for name, (source, is_package) in sources.items():
        for base, taken in imports_of(source, name, is_package=is_package):
            wanted = f"{base}.{taken}" if taken is not None else base
            target = wanted if wanted in sources else base
            if target in sources and target != name:
                graph[name].add(target)
    return graph


def own_graph() -> dict[str, set[str]]:
    sources = {
        name: (path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for name, path in modules().items()
    }
    # The compiled core: imports of its stub, and those at the top of its code.
    pattern = re.compile(r"^\s*(from flowcache\S* import (?:\([^)]*\)|.*))$", re.MULTILINE)
    rooms = [SOURCES / "_core.pyx", *sorted((SOURCES / "_core").glob("*.p*"))]
    text = "\n".join(
        match for room in rooms for match in pattern.findall(room.read_text(encoding="utf-8"))
    )
    sources[f"{PACKAGE}._core"] = text, False
    return graph_of(sources)


def circle_in(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return None


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = own_graph()
    assert f"{PACKAGE}.errors" in graph[f"{PACKAGE}._core"]
    assert f"{PACKAGE}.loading" in graph[PACKAGE]
    circle = circle_in(graph)
    assert circle is None, " <- ".join(circle or [])


def test_modules_of_loading_import_only_those_that_its_list_has_before_them() -> None:
    listed: list[str] = []
    for line in (flowcache.loading.__doc__ or "").splitlines():
        if line.startswith("- "):
            listed += re.findall(r"`(\w+)`", line.partition(":")[0])
    package = f"{PACKAGE}.loading"
    order = [f"{package}.{name}" for name in listed]
    graph = own_graph()
    assert sorted(order) == sorted(name for name in graph if name.startswith(f"{package}."))
    for place, name in enumerate(order):
        within = {other for other in graph[name] if other.startswith(package)}
        assert within <= set(order[:place]), name


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from . import b", "from . import a"),
        ("from .b import thing", "import p.a"),
        ("def f():\n    from .b import thing", "from p.a import thing"),
        ("if TYPE_CHECKING:\n    from .b import Thing", "from .a import thing"),
    ],
)
def test_a_circle_is_found(first: str, second: str) -> None:
    graph = graph_of({"p": ("", True), "p.a": (first, False), "p.b": (second, False)})
    assert circle_in(graph) is not None


def test_what_is_no_circle_is_not_taken_for_one() -> None:
    graph = graph_of(
        {
            "p": ("from .a import thing\nfrom .q import other", True),
            "p.a": ("from . import b\nimport os", False),
            "p.b": ("from .q.c import other", False),
            "p.q": ("from .c import other", True),
            "p.q.c": ("from . import d", False),
            "p.q.d": ("", False),
        }
    )
    assert graph["p.q.c"] == {"p.q.d"}
    assert circle_in(graph) is None
