"""The list of all public calls, and programs that make each of them."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import flowcache
from flowcache import Cache
from flowcache.twins import TWINS
from flowcache.wrapping import Cached
from harness import calls, stress
from harness.support import run_isolated


def names_in(source: Path) -> set[str]:
    """The attributes that a program reads and sets, and the functions that it defines."""
    tree = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    read = {node.attr for node in tree if isinstance(node, ast.Attribute)}
    return read | {node.name for node in tree if isinstance(node, ast.FunctionDef)}


def options_in(source: Path) -> set[str]:
    """The names of the arguments that a program gives by name, or in a dictionary."""
    tree = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    named = {node.arg for node in tree if isinstance(node, ast.keyword)}
    keys = [key for node in tree if isinstance(node, ast.Dict) for key in node.keys]
    return {key.value for key in keys if isinstance(key, ast.Constant)} | named


def public(owner: type = Cache) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


def options() -> set[str]:
    """The options of all public calls, as the stub of the core declares them."""
    stub = Path(flowcache.__file__).with_name("_core.pyi")
    found = set()
    for owner in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(owner, ast.ClassDef) and owner.name in OF_OPTIONS:
            found |= {line.target.id for line in owner.body if isinstance(line, ast.AnnAssign)}
        if isinstance(owner, ast.ClassDef) and owner.name == "Namespace":
            public = (call for call in owner.body if not getattr(call, "name", "_").startswith("_"))
            found |= {option.arg for call in public for option in call.args.kwonlyargs}
    return found


OF_OPTIONS = ("_Settings", "_Storing", "_Setting", "_Loading", "_Wrapping")


def test_every_public_call_is_in_the_list() -> None:
    listed = names_in(Path(calls.__file__))

    assert public() - listed == set()
    assert public(Cached) - listed == set()


def test_every_option_is_in_the_list() -> None:
    assert len(options()) > 25
    assert options() - options_in(Path(calls.__file__)) == set()


def test_threads_make_every_call_at_once_but_those_that_are_made_of_others() -> None:
    left_out = public() - names_in(Path(stress.__file__))
    # With `reset_stats` the counts would not add up; off, a namespace holds nothing to be lost.
    made_of_others = {"afetch_many", "arefresh", "cached", "for_current_tenant", "wrap"}
    # Without a tier, a twin is its call.
    twins = {twin.__name__ for twin in TWINS} | {"aconnect", "aclose", "connect", "tier"}
    assert left_out == made_of_others | {"enabled", "reset_stats"} | twins


EACH_CALL = """
    import contextlib, gc, logging, os, sys, threading, time, warnings
    from flowcache import create_cache
    from harness import calls, guests
    logging.getLogger("flowcache").setLevel(logging.CRITICAL)

    def make(call):
        house = guests.House()
        house.cache = create_cache(max_entries=20, weigher=lambda key, value: 1)
        place = house.cache.namespace("tenant")
        place.set(house.held(), house.value(), tags="red")
        place.set(house.number(), 1)
        call(house, place)
        house.cache._check()
        house.cache = place = None
        # The thread of a load that has answered may be on its way out still.
        until = time.monotonic() + 60
        while gc.collect() is not None and len(house.alive) and time.monotonic() < until:
            time.sleep(0.001)
        assert len(house.alive) == 0, f"{len(house.alive)} guests outlived their cache"
"""


@pytest.mark.parametrize("kind", ["WHOLE", "SEVERAL", "TWINS", "FACE", "TASKS"])
def test_each_call_lets_its_guests_go(kind: str) -> None:
    run_isolated(
        EACH_CALL
        + f"""
    for name, call in calls.{kind}.items():
        for _ in range(2):
            make(call)
    """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_each_call_works_in_a_process_that_was_forked_while_threads_made_calls() -> None:
    run_isolated(
        EACH_CALL
        + """
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while threads run
    shared = create_cache(max_entries=50)
    done = threading.Event()

    def work():
        while not done.is_set():
            for n in range(100):
                shared.fetch(n, lambda: n, timeout=5)
            shared.clear()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for call in calls.CALLS.values():
                    make(call)
                shared.set("key", 1)
                assert shared.fetch("key", int, timeout=5) == 1
                shared._check()
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
    """
    )
