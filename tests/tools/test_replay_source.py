"""Compressed logs: recognised by their bytes, read whole or not at all, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import random
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowcache.cli.replay import BAD_TRACE
from flowcache.replay.reading import BinaryKeys, Layout, read_trace
from flowcache.replay.source import COMPRESSIONS, LOOK_AHEAD, Ahead, TraceError
from harness.replay_support import PACKINGS, packed, zstd

REPLAY = [sys.executable, "-m", "flowcache", "replay"]


def log_of(requests: int, seed: int = 1) -> bytes:
    """A log that does not compress well, so that it is many blocks long."""
    draw = random.Random(seed)
    return b"time,key\n" + b"".join(
        b"%d,%x\n" % (at, draw.getrandbits(100)) for at in range(requests)
    )


@pytest.fixture(params=PACKINGS)
def packing(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    packed(b"", kind)
    return kind


class TestNames:
    @pytest.mark.parametrize("suffix", ["", ".csv", ".gz", ".xz", ".zst", ".ZST", ".log.1"])
    @pytest.mark.parametrize("kind", ["", *PACKINGS])
    def test_the_first_bytes_decide_and_not_the_name(
        self, write: Callable[..., str], suffix: str, kind: str
    ) -> None:
        trace = read_trace(write(packed(b"key\na\nb\na\n", kind), f"log{suffix}"), Layout())
        assert list(trace.keys) == [0, 1, 0]

    def test_a_compression_that_is_told_is_the_one(self, write: Callable[..., str]) -> None:
        kinds = ("none", *PACKINGS)
        for told, kind in itertools.product(kinds, kinds):
            path = write(packed(b"key\na\n", kind.replace("none", "")), "log")
            if told == kind:
                assert len(read_trace(path, Layout(), compression=told)) == 1
            else:
                with pytest.raises(TraceError, match="log: line 1: "):
                    read_trace(path, Layout(), compression=told)
        assert set(kinds) == set(COMPRESSIONS)

    def test_binary_keys_whose_name_promises_compression(
        self, write: Callable[..., str], packing: str
    ) -> None:
        """Any bytes are keys: those of a file that has lost its beginning as well."""
        keys = struct.pack(">6i", 1, 2, 3, 1, 2, 3)
        with pytest.raises(TraceError, match=rf"is no \.{packing} file, in spite of its name"):
            read_trace(write(keys, f"keys.{packing}"), BinaryKeys("i"))
        with pytest.raises(TraceError, match=rf"is no \.{packing} file, in spite of its name"):
            read_trace(write(packed(keys, packing)[2:], f"keys.{packing}"), BinaryKeys("i"))
        path = write(keys, f"keys.{packing}")
        assert len(read_trace(path, BinaryKeys("i"), compression="none")) == 6
        assert len(read_trace(write(packed(keys, packing), "keys"), BinaryKeys("i"))) == 6

    @pytest.mark.parametrize("layout", [Layout(columns=("key",)), BinaryKeys("i")])
    def test_archives_are_refused(
        self, write: Callable[..., str], layout: Layout | BinaryKeys
    ) -> None:
        def tar(mode: str) -> bytes:
            held = io.BytesIO()
            with tarfile.open(fileobj=held, mode=mode) as archive:
                archive.addfile(tarfile.TarInfo("log.csv"), io.BytesIO())
            return held.getvalue()

        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("log.csv", "key\na\n")
        for content, kind in (
            (bz2.compress(b"key\na\n"), "a bzip2 file"),
            (zipped.getvalue(), "a zip archive"),
            (tar("w"), "a tar archive"),
            (tar("w:gz"), "a tar archive"),
            (tar("w:xz"), "a tar archive"),
            (b"\x04\x22\x4d\x18" + bytes(60), "an lz4 file"),
            (b"\x1f\x9d" + bytes(62), "a file of compress"),
        ):
            for name in ("log.csv", "log.gz"):
                with pytest.raises(TraceError, match=f"is {kind}, which must be unpacked"):
                    read_trace(write(content, name), layout, skip_bad=True)

    @pytest.mark.parametrize("inner", PACKINGS)
    @pytest.mark.parametrize("layout", [Layout(columns=("key",)), BinaryKeys("i")])
    def test_what_is_compressed_twice_is_refused(
        self, write: Callable[..., str], packing: str, inner: str, layout: Layout | BinaryKeys
    ) -> None:
        path = write(packed(packed(b"key\n" * 10, inner), packing), "log")
        with pytest.raises(TraceError, match=rf"compressed twice, as \.{inner} within \.{packing}"):
            read_trace(path, layout, skip_bad=True)


class TestParts:
    def test_files_of_several_parts(self, write: Callable[..., str], packing: str) -> None:
        """As rotation and `cat` leave them; a part may be empty and may end within a line."""
        log = log_of(3_000)
        cuts = [0, 5, 5, 4_000, 4_001, 50_000, len(log)]
        parts = b"".join(packed(log[a:b], packing) for a, b in itertools.pairwise(cuts))
        trace = read_trace(write(parts, "log"), Layout())
        assert (len(trace), trace.distinct_keys) == (3_000, 3_000)

    def test_parts_that_bear_the_header_each(self, write: Callable[..., str], packing: str) -> None:
        part = packed(b"key\na\nb\n", packing)
        with pytest.raises(TraceError, match="line 4: names the columns once more"):
            read_trace(write(part + part, "log"), Layout())

    @pytest.mark.parametrize("zeros", [4, 512, 10_000])
    def test_zeros_after_and_between_parts(self, write: Callable[..., str], zeros: int) -> None:
        padding = bytes(zeros)
        for kind in ("gz", "xz"):
            parts = [packed(b"key\na\n", kind), padding, packed(b"b\na\n", kind), padding]
            assert list(read_trace(write(b"".join(parts), "log"), Layout()).keys) == [0, 1, 0]

    @pytest.mark.parametrize("zeros", [1, 2, 3, 4 * LOOK_AHEAD - 1])
    def test_zeros_after_an_xz_stream_that_are_not_by_fours(
        self, write: Callable[..., str], zeros: int
    ) -> None:
        stream = packed(b"key\na\n", "xz")
        for rest in (b"", stream):
            with pytest.raises(TraceError, match="no multiple of four"):
                read_trace(write(stream + bytes(zeros) + rest, "log"), Layout(), skip_bad=True)
        padded = stream + bytes(zeros + 4 - zeros % 4)
        assert len(read_trace(write(padded, "log"), Layout())) == 1

    def test_zstandard_frames_to_skip(self, write: Callable[..., str]) -> None:
        skipped = struct.pack("<II", 0x184D2A5F, 3) + b"abc"
        parts = [skipped, packed(b"key\na\n", "zst"), skipped, packed(b"b\na\n", "zst"), skipped]
        assert list(read_trace(write(b"".join(parts), "log"), Layout()).keys) == [0, 1, 0]


class TestDamage:
    """Never the figures of a part of the log, with or without `--skip-bad`."""

    @staticmethod
    def expect_refusal(write: Callable[..., str], content: bytes, complaint: str = "") -> str:
        for skip_bad in (False, True):
            with pytest.raises(TraceError, match=r"log: line \d+: .*" + complaint) as caught:
                read_trace(write(content, "log"), Layout(), skip_bad=skip_bad)
        return str(caught.value)

    def test_a_file_that_is_cut_short_anywhere(
        self, write: Callable[..., str], packing: str
    ) -> None:
        whole = packed(log_of(12), packing)
        for end in range(8, len(whole)):
            self.expect_refusal(write, whole[:end], "damaged or cut short, here or after: ")
        for end in range(1, 8):
            self.expect_refusal(write, whole[:end])

    def test_a_last_part_that_is_cut_short_anywhere(
        self, write: Callable[..., str], packing: str
    ) -> None:
        first, last = packed(b"key\na\n", packing), packed(b"b\n", packing)
        for end in range(1, len(last)):
            self.expect_refusal(write, first + last[:end], "damaged or cut short")

    def test_a_file_of_many_blocks_that_is_cut_short(
        self, write: Callable[..., str], packing: str
    ) -> None:
        """The line that is named is the last that can be read, within some blocks."""
        log = log_of(20_000)
        whole = packed(log, packing)
        for part in (0.1, 0.5, 0.9):
            said = self.expect_refusal(write, whole[: int(part * len(whole))], "cut short")
            line = int(said.partition("log: line ")[2].partition(":")[0])
            assert part - 0.1 < line / 20_000 < part + 0.1

    @pytest.mark.parametrize(
        "garbage",
        [b"x", b"\n", b"garbage", b"key\na\n", b"\0\0\0\0x", b"\x1f\x8b", b"\xfd7zX", b"\x28\xb5"],
    )
    def test_garbage_after_the_last_part(
        self, write: Callable[..., str], packing: str, garbage: bytes
    ) -> None:
        self.expect_refusal(write, packed(b"key\na\n", packing) + garbage, "damaged or cut short")

    def test_a_part_that_has_lost_its_beginning(
        self, write: Callable[..., str], packing: str
    ) -> None:
        part = packed(b"key\na\n", packing)
        self.expect_refusal(write, part + part[3:] + part, "damaged or cut short")

    def test_parts_of_two_kinds(self, write: Callable[..., str]) -> None:
        for first, second in itertools.permutations(PACKINGS, 2):
            mixed = packed(b"key\na\n", first) + packed(b"b\n", second)
            self.expect_refusal(write, mixed, "damaged or cut short")

    def test_bits_that_flip_are_found_or_change_nothing(
        self, write: Callable[..., str], packing: str
    ) -> None:
        log = log_of(30)
        whole = packed(log, packing)
        if packing == "zst":
            options = {zstd().CompressionParameter.checksum_flag: 1}
            whole = zstd().compress(log, options=options)
        right = read_trace(write(log), Layout())
        draw = random.Random(3)
        refused = 0
        for _ in range(400):
            flipped = bytearray(whole)
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
            try:
                trace = read_trace(write(bytes(flipped), "log"), Layout(), skip_bad=True)
            except TraceError:
                refused += 1
            else:
                assert (trace.keys, trace.times) == (right.keys, right.times)
        assert refused > 300

    def test_binary_keys_name_the_record(self, write: Callable[..., str], packing: str) -> None:
        keys = packed(random.Random(4).randbytes(400_000), packing)
        with pytest.raises(TraceError, match=r"keys: record [\d]+: damaged or cut short"):
            read_trace(write(keys[:-100], "keys"), BinaryKeys("i"), skip_bad=True)

    def test_an_xz_file_that_asks_for_much_memory(self, write: Callable[..., str]) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
        self.expect_refusal(write, lzma.compress(b"key\na\n", filters=filters), "[Mm]emory")
        allowed = lzma.compress(b"key\na\n", preset=9)
        assert len(read_trace(write(allowed), Layout())) == 1


def run(data: bytes, *options: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*REPLAY, "-", "--json", *options],
        input=data,
        capture_output=True,
        timeout=120,
        **settings,
    )


class TestStandardInput:
    @pytest.mark.parametrize("kind", ["", *PACKINGS])
    def test_plain_or_compressed(self, kind: str) -> None:
        finished = run(packed(log_of(20_000), kind))
        assert finished.returncode == 0, finished.stderr
        assert json.loads(finished.stdout)["requests"] == 20_000
        assert finished.stderr == b""

    def test_what_is_wrong_is_named_as_in_a_file(self) -> None:
        for data, complaint in (
            (b"", b"standard input: holds no request: it is empty"),
            (b"time,key\n1,a\nx,b\n", b"standard input: line 3: the time is not a number"),
            (gzip.compress(b"key\na\n")[:-4], b"standard input: line 3: damaged or cut short"),
            ("key\na\n".encode("utf-16"), b"standard input: line 1: is UTF-16"),
        ):
            finished = run(data)
            assert finished.returncode == BAD_TRACE
            assert complaint in finished.stderr
            assert finished.stdout == b""

    @pytest.mark.parametrize("kind", ["", *PACKINGS])
    def test_bytes_that_come_one_by_one(self, kind: str) -> None:
        """The first bytes are not all there at the first read of a pipe."""
        with subprocess.Popen(
            [*REPLAY, "-", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            for byte in packed(b"key\na\nb\na\n", kind):
                process.stdin.write(bytes([byte]))
                process.stdin.flush()
                time.sleep(0.001)
            output, _ = process.communicate(timeout=120)
        assert json.loads(output)["requests"] == 3

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes with a name in its folders")
    def test_a_pipe_with_a_name(self, tmp_path: Path) -> None:
        """As a shell passes the output of another command: it has no position."""
        path = tmp_path / "pipe.gz"
        os.mkfifo(path)
        told: list[int] = []
        writer = threading.Thread(
            target=lambda: path.write_bytes(packed(b"key\n" + b"a\n" * 10_000, "gz"))
        )
        writer.start()
        trace = read_trace(str(path), Layout(), progress=told.append)
        writer.join()
        assert len(trace) == 10_000
        assert told

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes that do not wait")
    def test_a_pipe_that_does_not_wait(self) -> None:
        """An empty pipe is not the end of the log."""
        reading, writing = os.pipe()
        try:
            os.set_blocking(reading, False)
            os.write(writing, b"key\na\nb\n")
            finished = subprocess.run(
                [*REPLAY, "-", "--json"], stdin=reading, capture_output=True, timeout=120
            )
        finally:
            os.close(reading)
            os.close(writing)
        assert finished.returncode == BAD_TRACE
        assert b"does not wait for data" in finished.stderr

    def test_standard_input_that_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", None)
        with pytest.raises(TraceError, match="standard input: closed"):
            read_trace("-", Layout())

    def test_standard_input_stays_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.TextIOWrapper(io.BytesIO(gzip.compress(b"key\na\n")))
        monkeypatch.setattr("sys.stdin", stream)
        assert len(read_trace("-", Layout())) == 1
        assert not stream.buffer.closed

    def test_a_folder_and_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none.csv"):
            with pytest.raises(TraceError):
                read_trace(str(path), Layout())


def test_a_look_ahead_gives_back_what_it_saw() -> None:
    data = random.Random(5).randbytes(3 * LOOK_AHEAD)
    for size in (1_000, LOOK_AHEAD, len(data)):
        ahead = Ahead(io.BytesIO(data[:size]).read, (OSError,))
        assert ahead.start == data[: min(size, LOOK_AHEAD)]
        assert io.BufferedReader(ahead).read() == data[:size]
        assert ahead.taken == size


MEASURE = """
import re, sys
from flowcache.cli import main
from flowcache.cli import replay
from pathlib import Path
def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = most()
status = main(["replay", *sys.argv[1:]])
print(status, most() - before, file=sys.stderr)
"""
LINE = 192 << 20
"""Bytes of a line that a reader must not hold."""
ALLOWED = 128
"""MiB by which the memory may grow; xz may take its window's 64."""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is from /proc")
@pytest.mark.skipif("FLOWCACHE_SANITIZE" in os.environ, reason="a sanitizer keeps freed memory")
class TestBounds:
    def measured(self, path: str, *options: str) -> tuple[int, str]:
        """Replay in a child process with bounded memory; return its status and its output."""
        finished = subprocess.run(
            [sys.executable, "-c", MEASURE, path, "--json", *options],
            capture_output=True,
            text=True,
            timeout=240,
        )
        *said, last = finished.stderr.splitlines()
        status, megabytes = map(int, last.split())
        assert megabytes < ALLOWED, finished.stderr
        return status, finished.stdout or "\n".join(said)

    @pytest.fixture
    def bomb(self, tmp_path: Path, packing: str) -> str:
        """A line of 192 MiB in a file of some hundred kilobytes, then an ordinary line."""
        part = packed(b"a" * (16 << 20), packing)
        path = tmp_path / "bomb"
        with path.open("wb") as file:
            file.write(packed(b"time,key\n1,a\n2,", packing))
            for _ in range(LINE >> 24):
                file.write(part)
            file.write(packed(b"\n3,b\n", packing))
        return str(path)

    def test_a_line_that_unpacks_without_end_is_refused(self, bomb: str) -> None:
        status, said = self.measured(bomb)
        assert status == BAD_TRACE
        assert "bomb: line 3: longer than 131,072 bytes" in said

    def test_a_line_that_unpacks_without_end_is_skipped(self, bomb: str) -> None:
        status, said = self.measured(bomb, "--skip-bad")
        assert status == 0
        report = json.loads(said)
        assert (report["requests"], report["skipped"]) == (2, 1)

    @pytest.mark.parametrize("start", [b"", b"key,", b"\xef\xbb\xbf"])
    def test_a_header_without_an_end(self, tmp_path: Path, start: bytes) -> None:
        status, said = self.measured(self.plain(tmp_path, start), "--skip-bad")
        assert status == BAD_TRACE
        assert "line 1: longer than 131,072 bytes" in said

    @pytest.mark.parametrize("options", [(), ("--skip-bad",)])
    def test_a_line_without_an_end(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        status, said = self.measured(self.plain(tmp_path, b"key\na\nb"), *options)
        if options:
            assert json.loads(said)["skipped"] == 1
        else:
            assert status == BAD_TRACE
            assert "line 3: longer than 131,072 bytes" in said

    @staticmethod
    def plain(folder: Path, start: bytes) -> str:
        """Write a file of 192 MiB with nothing but zeros after its start."""
        path = folder / "log.csv"
        with path.open("wb") as file:
            file.write(start)
            file.truncate(LINE)
        return str(path)
