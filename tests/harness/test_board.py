"""Numbers that processes share are read as they were written."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.board import SIZE, Board

EACH = 50_000
ONES, TWOS = 0x0101010101010101, 0x0202020202020202


@pytest.mark.once  # Of the harness, and not of interpreters.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the writer is a fork")
def test_a_number_is_written_at_once(tmp_path: Path) -> None:
    """No other process reads a part of it, nor 0 in between."""
    path = tmp_path / "board"
    path.write_bytes(bytes(SIZE))
    board = Board(str(path))
    board.put(3, ONES)
    reader = os.getpid()
    writer = os.fork()
    if writer == 0:
        try:
            while os.getppid() == reader:
                board.put(3, TWOS)
                board.put(3, ONES)
        finally:
            os._exit(0)
    try:
        seen = {board.get(3) for _ in range(EACH)}
        while seen == {ONES}:  # The writer may not have begun.
            seen |= {board.get(3) for _ in range(EACH)}
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert seen == {ONES, TWOS}
