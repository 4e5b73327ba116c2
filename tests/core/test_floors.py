"""The rooms of the core: each uses only rooms above it, and none is too long to be read."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

SOURCE = Path(__file__).resolve().parents[2] / "src"
ROOMS = re.findall(r'(?m)^include "(\w+/\w+\.p[xy][dx])"$', (SOURCE / "_core.pyx").read_text())
MOST_LINES = 620
# A table of contents: one class, whose lines are the docstrings of its calls.
TABLE_OF_CONTENTS = "_core/namespace.pyx"
MOST_OF_ANY_FILE = 700

# Names defined at the margin, function types too; names of `cdef extern` and of `cdef enum`.
AT_THE_MARGIN = re.compile(
    r"(?m)^(?:(?:cdef|cpdef|def|class|ctypedef)\b[^(=:\n]*?)?(?:\(\*)?(\b\w+)(?: ?[()=:]|$)"
)
EXTERN = re.compile(r"(?m)^ +[^(\n]*?\b([A-Za-z_]\w*) (?:\"\" )?\(")
ENUM = re.compile(r"\b([A-Z][A-Z_]+)\b")
BLOCK = re.compile(r"(?m)^cdef (extern|enum)\b.*\n((?: .*\n)*)")
NOT_NAMES = {"enum", "int", "nogil", "noexcept"}


def code_of(room: str) -> str:
    """The source of a room: one space between words, no comments, and all strings empty."""
    rows: dict[int, str] = {}
    with (SOURCE / room).open() as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
                row, column = token.start
                begun = rows.setdefault(row, " " * min(column, 1))
                gap = " " if token.line[column - 1 : column] == " " and begun.strip() else ""
                rows[row] += gap + (' "" ' if token.type == tokenize.STRING else token.string)
    return "".join(f"{rows[row]}\n" for row in sorted(rows)).replace("  ", " ")


def defined_in(code: str) -> set[str]:
    names = set(AT_THE_MARGIN.findall(code))
    for kind, block in BLOCK.findall(code):
        names |= set((ENUM if kind == "enum" else EXTERN).findall(block))
    return names - NOT_NAMES


CODE = {room: code_of(room) for room in ROOMS}


def test_every_room_is_on_a_floor() -> None:
    assert sorted(ROOMS) == sorted(f"_core/{path.name}" for path in SOURCE.glob("_core/*.p*"))
    assert len(ROOMS) > 25


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_only_rooms_above_it(room: str) -> None:
    below = {
        name: other for other in ROOMS[ROOMS.index(room) + 1 :] for name in defined_in(CODE[other])
    }
    used = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", CODE[room])) - defined_in(CODE[room])

    assert {name: below[name] for name in used & below.keys()} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_read_in_one_sitting(room: str) -> None:
    most = MOST_OF_ANY_FILE if room == TABLE_OF_CONTENTS else MOST_LINES
    assert len((SOURCE / room).read_text().splitlines()) <= most


def test_no_file_is_long() -> None:
    files = [path for kind in ("py", "pyi", "pxd", "pyx") for path in SOURCE.rglob(f"*.{kind}")]
    # By the whole path: several folders have a file of one name.
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}

    assert len(lines) == len(files) > 100
    assert {name: count for name, count in lines.items() if count > MOST_OF_ANY_FILE} == {}


def test_the_map_names_every_room_in_its_place() -> None:
    page = (SOURCE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    table = page[page.index("| floor |") :].partition("\n\n")[0]
    rooms = [Path(room).stem for room in ROOMS]

    assert [name for name in re.findall(r"`(\w+)`", table) if name in rooms] == rooms


def test_the_map_counts_the_rooms_that_a_call_is_read_in() -> None:
    page = (SOURCE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(get|set)`[^|]*\|([^|]*)\|([^|]*)\|$", page)
    rooms = {Path(room).stem for room in ROOMS}
    most = {"get": 5, "set": 8}

    assert [call for call, *_ in rows] == ["get", "set"]
    for call, steps, _ in rows:
        assert int(re.findall(r"\d+", steps)[0]) <= most[call]
    for cell in (cell for _, *cells in rows for cell in cells):
        named = re.findall(r"`(\w+)`", cell)
        assert len(named) == int(re.findall(r"\d+", cell)[0])
        assert set(named) <= rooms
