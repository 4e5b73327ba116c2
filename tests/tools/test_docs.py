"""Every Python block of the README and the guides runs, and shows the result that it claims.

A page is one program: its blocks run in order, in one module and on one event loop. So a block may
use names of blocks above it and may `await` at its top level. A block inside an HTML comment is a
page's set-up (a small upstream that is faked) and runs like any other. Next to `assert`, two
comments at the end of a statement are checked:

    ns.get("plan")        # => "gold"
    ns.get([])            # raises TypeError

Shell blocks are not run, but each `make` target that a page names is one of the Makefile's.
"""

import ast
import asyncio
import contextvars
import inspect
import io
import re
import sys
import textwrap
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^ *(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
RESULT = re.compile(r"# (?P<kind>=>|raises) (?P<text>.+)")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
MAKE_IN_SHELL = re.compile(r"(?:^|[;&|]|\$)\s*make +(?P<target>[a-z][\w-]*)", re.MULTILINE)
MAKE_IN_PROSE = re.compile(r"`make (?P<target>[a-z][\w-]*)[^`]*`")


@dataclass(frozen=True)
class Block:
    """One fenced block: the page's line on which its text begins, its language and its text."""

    line: int
    language: str
    source: str


def find_blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, those inside HTML comments included."""
    opening: re.Match[str] | None = None
    first = 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if opening is None:
            if fence:
                opening, first, lines = fence, number + 1, []
        elif fence and fence["fence"].startswith(opening["fence"]) and not fence["language"]:
            yield Block(first, opening["language"], textwrap.dedent("\n".join(lines)) + "\n")
            opening = None
        else:
            lines.append(line)
    if opening is not None:
        raise ValueError(f"the block that begins on line {first} is never closed")


def prose_of(text: str) -> str:
    """Return a page without its fenced blocks."""
    lines = text.splitlines()
    for block in find_blocks(text):
        end = block.line - 1 + block.source.count("\n")
        for index in range(block.line - 2, min(end + 1, len(lines))):
            lines[index] = ""
    return "\n".join(lines)


def expect_equal(value: object, expected: object) -> None:
    """Fail unless a block's `# =>` comment tells the truth."""
    assert value == expected, f"the page says {expected!r}, the result is {value!r}"


class ResultChecks(ast.NodeTransformer):
    """Turn `# => value` and `# raises Error` into checks of the statement that they follow."""

    def __init__(self, source: str) -> None:
        self.comments: dict[int, re.Match[str]] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            match = RESULT.fullmatch(token.string)
            if token.type == tokenize.COMMENT and match:
                self.comments[token.start[0]] = match

    def visit(self, node: ast.AST) -> ast.AST:
        node = super().visit(node)
        if not isinstance(node, ast.stmt) or "body" in node._fields or "cases" in node._fields:
            return node
        comment = self.comments.pop(node.end_lineno or 0, None)
        if comment is None:
            return node
        claim = ast.parse(comment["text"], mode="eval").body
        if comment["kind"] == "raises":
            context = ast.Call(ast.Name("_raises", ast.Load()), [claim], [])
            checked: ast.stmt = ast.With([ast.withitem(context)], [node])
        elif isinstance(node, ast.Expr):
            checked = ast.Expr(
                ast.Call(ast.Name("_expect_equal", ast.Load()), [node.value, claim], [])
            )
        else:
            raise ValueError(f"line {node.lineno}: `# =>` follows a statement that has no value")
        return ast.fix_missing_locations(ast.copy_location(checked, node))


def compile_block(block: Block, filename: str) -> types.CodeType:
    """Return a block's code, its result comments as checks, at the page's own line numbers."""
    source = "\n" * (block.line - 1) + block.source
    tree = ast.parse(source, filename)
    checks = ResultChecks(source)
    checks.visit(tree)
    if checks.comments:
        raise ValueError(
            f"{filename}: the result comments on lines {sorted(checks.comments)} check nothing"
        )
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: types.CodeType = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    return code


def run_page(text: str, filename: str) -> None:
    """Run the Python blocks of a page, in order, in one module and on one event loop."""
    module = types.ModuleType("page_" + re.sub(r"\W", "_", filename))
    vars(module).update(_raises=pytest.raises, _expect_equal=expect_equal)
    # Dataclasses and pickles look for the module that a class says it comes from.
    sys.modules[module.__name__] = module
    try:
        with asyncio.Runner() as runner:
            for block in find_blocks(text):
                if block.language == "python":
                    code = compile_block(block, filename)
                    result = eval(code, vars(module))
                    if code.co_flags & inspect.CO_COROUTINE:
                        runner.run(result)
    finally:
        del sys.modules[module.__name__]


def third_party_imports(text: str) -> set[str]:
    """Return the top-level modules that a page needs beyond flowcache and the standard library."""
    names: set[str] = set()
    for block in find_blocks(text):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.source)):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"flowcache"}


def make_targets_named(text: str) -> set[str]:
    """Return the `make` targets that a page names in its shell blocks and its prose."""
    shell = [
        block.source
        for block in find_blocks(text)
        if block.language in {"sh", "shell", "bash", "console"}
    ]
    named = {match["target"] for source in shell for match in MAKE_IN_SHELL.finditer(source)}
    return named | {match["target"] for match in MAKE_IN_PROSE.finditer(prose_of(text))}


def make_targets_defined(makefile: str) -> set[str]:
    """Return the targets of a Makefile."""
    rules = re.findall(r"^([\w.%/ -]+?)\s*:(?![=:])", makefile, re.MULTILINE)
    return {target for rule in rules for target in rule.split()}


def anchors_of(text: str) -> set[str]:
    """Return the anchors that a page's headings have when they are shown on a forge."""
    headings = re.findall(r"^#+ +(.+?) *$", prose_of(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_page_runs_and_shows_what_it_claims(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in sorted(third_party_imports(text)):
        pytest.importorskip(
            module,
            reason=f"{page_name(page)} shows flowcache with {module}, which is not installed",
        )
    # A tenant that a page leaves set must not reach the next test.
    contextvars.copy_context().run(run_page, text, str(page))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_page_names_only_make_targets_that_exist(page: Path) -> None:
    defined = make_targets_defined((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert make_targets_named(page.read_text(encoding="utf-8")) <= defined


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_page_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(prose_of(page.read_text(encoding="utf-8"))):
        path, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_name(page)} links to {path}, which does not exist"
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), (
                f"{link['target']} has no such heading"
            )


def fenced(*blocks: str) -> str:
    return "\n".join(f"```python\n{textwrap.dedent(block).strip()}\n```\n" for block in blocks)


def test_blocks_share_a_namespace_and_an_event_loop() -> None:
    run_page(
        fenced(
            "import asyncio\nvalue = await asyncio.sleep(0, 41)\nloop = asyncio.get_running_loop()",
            "value += 1",
            "value + await asyncio.sleep(0, 0)  # => 42\nassert asyncio.get_running_loop() is loop",
        ),
        "page",
    )


def test_a_block_inside_an_html_comment_runs() -> None:
    run_page(
        "<!-- set-up\n" + fenced("upstream = [1]") + "-->\n" + fenced("upstream  # => [1]"), "page"
    )


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("undefined_name", NameError),
        ("assert 1 == 2", AssertionError),
        ("1 + 1  # => 3", AssertionError),
        ("if True:\n    1 + 1  # => 3", AssertionError),
        ("{}['absent']  # raises ValueError", KeyError),
        ("{}.get('absent')  # raises KeyError", pytest.fail.Exception),
        ("value = 1  # => 1", ValueError),
        ("if True:  # => 1\n    pass", ValueError),
        ("def broken(:\n    pass", SyntaxError),
    ],
)
def test_a_page_that_is_wrong_fails(block: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        run_page(fenced(block), "page")


def test_a_result_comment_is_read_as_code_and_not_inside_a_string() -> None:
    run_page(
        fenced("text = 'a # => b'\ntext  # => 'a ' + '# => b'", "{}[1]  # raises KeyError"), "page"
    )


def test_a_fence_that_is_never_closed_fails() -> None:
    with pytest.raises(ValueError, match="never closed"):
        run_page("```python\nvalue = 1\n", "page")


def test_an_error_names_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_page("one\n\n" + fenced("value = 0\n1 / value"), "page.md")
    assert caught.traceback[-1].lineno + 1 == 5


def test_make_targets_are_found_in_shell_blocks_and_prose() -> None:
    page = "Run `make demo ARGS=--serve`.\n\n```sh\n$ make test && make lint\npip install .\n```\n"
    assert make_targets_named(page) == {"demo", "test", "lint"}
    assert make_targets_defined(
        "VENV := .venv\n.PHONY: demo test\ndemo test: build\n\tmake other\n"
    ) == {
        ".PHONY",
        "demo",
        "test",
    }
