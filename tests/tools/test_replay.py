"""The replay tool: what it reads, what it replays, what it says, and how it ends."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import re
import subprocess
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowcache import Cache, Limits
from flowcache.cli import INTERRUPTED, OK
from flowcache.cli import main as flowcache
from flowcache.cli.replay import BAD_TRACE, BAD_USAGE
from flowcache.replay import extras
from flowcache.replay.optimum import next_reads, optimum_hits
from flowcache.replay.reading import TWITTER, Layout, TraceError, read_trace
from flowcache.replay.report import amount
from flowcache.replay.simulate import Settings, replay
from flowcache.replay.trace import ADD, DELETE, READ, REPLACE, SET, Trace, TraceBuilder

HEADER = "time,key,tenant,size,operation,ttl\n"


def main(arguments: list[str]) -> int:
    return flowcache(["replay", *arguments])


def trace_of(*requests: tuple[Any, ...], **columns: bool) -> Trace:
    """A trace of (key, operation, time, ttl, size, tenant), each as far as it is given."""
    builder = TraceBuilder(
        with_operations=True,
        with_times=True,
        with_ttls=True,
        with_sizes=columns.get("sizes", False),
        with_tenants=columns.get("tenants", False),
    )
    for request in requests:
        key, operation, time, ttl, size, tenant = (
            *request,
            *(READ, 0.0, 0.0, 0, "all")[len(request) - 1 :],
        )
        builder.add(key, operation=operation, time=time, ttl=ttl, size=size, tenant=tenant)
    return builder.finish()


def keys_only(keys: list[int]) -> Trace:
    builder = TraceBuilder()
    builder.add_keys(array("i", keys))
    return builder.finish()


def skewed_keys(seed: int, requests: int = 3_000, keys: int = 300) -> list[int]:
    draw = random.Random(seed)
    return [int(keys * draw.random() ** 3) for _ in range(requests)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a file and returns its path."""

    def write(text: str | bytes, name: str = "log.csv") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json", "--quiet"]) == OK
    return json.loads(capsys.readouterr().out)


class TestSimulation:
    @pytest.mark.parametrize("capacity", [1, 7, 50, 299])
    def test_keys_alone_hit_as_in_an_ordered_dict_lru(self, capacity: int) -> None:
        keys = skewed_keys(1)
        held: OrderedDict[int, None] = OrderedDict()
        hits = 0
        for key in keys:
            if key in held:
                hits += 1
                held.move_to_end(key)
            else:
                held[key] = None
                if len(held) > capacity:
                    held.popitem(last=False)

        outcome = replay(keys_only(keys), Settings(max_entries=capacity))

        assert outcome.total.hits == hits
        assert outcome.total.misses == len(keys) - hits
        assert outcome.total.entries == outcome.peak_entries == min(capacity, len(set(keys)))
        assert outcome.total.evictions == outcome.total.sets - outcome.total.entries

    def test_ttls_run_on_the_time_of_the_log(self) -> None:
        trace = trace_of(
            ("a", SET, 100.0, 10.0), ("a", READ, 109.9), ("a", READ, 110.1), ("a", READ, 119.0)
        )
        total = replay(trace, Settings()).total
        # The read at 110.1 misses and fills again, with the TTL that the key was last stored with.
        assert (total.hits, total.misses, total.sets, total.expirations) == (2, 1, 2, 1)

    def test_the_default_ttl_is_for_requests_without_one(self) -> None:
        trace = trace_of(
            ("a", SET, 0.0), ("b", SET, 0.0, 50.0), ("a", READ, 20.0), ("b", READ, 20.0)
        )
        total = replay(trace, Settings(default_ttl=10.0)).total
        assert (total.hits, total.misses) == (1, 1)

    def test_writes_do_what_memcached_does(self) -> None:
        trace = trace_of(
            ("a", REPLACE, 0.0),  # not there: stores nothing
            ("a", READ, 0.0),  # miss; --no-fill stores nothing
            ("a", ADD, 0.0, 5.0),
            ("a", ADD, 1.0, 50.0),  # there already: its TTL stays 5
            ("a", READ, 2.0),  # hit
            ("a", READ, 7.0),  # miss: expired
            ("a", SET, 8.0),
            ("a", REPLACE, 9.0, 5.0),
            ("a", DELETE, 10.0),
            ("a", READ, 11.0),  # miss
        )
        total = replay(trace, Settings(fill=False)).total
        assert (total.hits, total.misses, total.sets) == (1, 3, 3)
        assert (total.expirations, total.invalidations, total.entries) == (1, 1, 0)

    def test_tenants_do_not_share_keys_and_get_their_own_limits(self) -> None:
        requests = [
            (key, READ, 0.0, 0.0, 0, tenant) for tenant in ("a", "b") for key in range(40)
        ] * 2
        outcome = replay(
            trace_of(*requests, tenants=True),
            Settings(child_limits=Limits(max_entries=10), tenants={"b": Limits(max_entries=40)}),
        )
        assert outcome.tenants["a"].entries == 10
        assert outcome.tenants["a"].hits == 0
        assert outcome.tenants["b"].entries == 40
        assert outcome.tenants["b"].hits == 40
        assert outcome.total.misses == 80 + 40

    def test_weights_are_sizes_and_what_is_too_heavy_is_counted(self) -> None:
        trace = trace_of(
            ("a", SET, 0.0, 0.0, 60),
            ("b", SET, 0.0, 0.0, 60),
            ("c", SET, 0.0, 0.0, 200),
            sizes=True,
        )
        outcome = replay(trace, Settings(max_weight=100))
        assert outcome.refused == 1
        assert outcome.total.weight == outcome.peak_weight == 60
        assert outcome.total.evictions == 1

    def test_every_moment_can_be_looked_at_and_counts_add_up(self) -> None:
        draw = random.Random(5)
        operations = [READ] * 6 + [SET, ADD, REPLACE, DELETE]
        trace = trace_of(
            *(
                (
                    draw.randrange(60),
                    draw.choice(operations),
                    at / 10,
                    draw.choice([0, 3, 20]),
                    1,
                    name,
                )
                for at in range(1_500)
                for name in [draw.choice("abcd")]
            ),
            tenants=True,
            sizes=True,
        )
        seen = []

        def observe(done: int, cache: Cache[int]) -> None:
            cache._check()
            seen.append(done)

        outcome = replay(
            trace, Settings(max_entries=80, max_weight=70), observe=observe, observe_every=1
        )
        assert seen == list(range(1_501))
        for name, total in outcome.total.as_dict().items():
            if name not in ("hit_rate", "load_seconds"):
                parts = sum(stats.as_dict()[name] for stats in outcome.tenants.values())
                assert parts == total, name


class TestOptimum:
    @staticmethod
    def best_possible(keys: list[int], capacity: int) -> int:
        """The most hits that any choice of victims gives, by trying all of them."""
        states: dict[frozenset[int], int] = {frozenset(): 0}
        for key in keys:
            after: dict[frozenset[int], int] = {}
            for held, before in states.items():
                hits = before + (key in held)
                if key in held:
                    choices = [held]
                elif len(held) < capacity:
                    choices = [held | {key}]
                else:
                    choices = [(held - {victim}) | {key} for victim in held]
                for choice in choices:
                    after[choice] = max(after.get(choice, 0), hits)
            states = after
        return max(states.values())

    @pytest.mark.parametrize("seed", range(30))
    def test_no_choice_of_victims_hits_more(self, seed: int) -> None:
        keys = skewed_keys(seed, requests=60, keys=9)
        trace = keys_only(keys)
        for capacity in (1, 2, 4):
            found = optimum_hits(trace, capacity, next_reads(trace))
            assert found == self.best_possible(keys, capacity)

    def test_is_never_below_the_replay_even_with_writes_and_ttls(self) -> None:
        draw = random.Random(3)
        for _ in range(20):
            trace = trace_of(
                *(
                    (
                        int(80 * draw.random() ** 2),
                        draw.choice([READ] * 8 + [SET, ADD, REPLACE, DELETE]),
                        at / 10,
                        draw.choice([0.0, 0.0, 5.0]),
                    )
                    for at in range(800)
                )
            )
            for fill in (True, False):
                settings = Settings(max_entries=20, default_ttl=30.0, fill=fill)
                hits = optimum_hits(trace, 20, next_reads(trace), default_ttl=30.0, fill=fill)
                assert hits >= replay(trace, settings).total.hits

    def test_a_cache_that_holds_everything_hits_as_the_replay_does(self) -> None:
        trace = trace_of(
            ("a", SET, 0.0, 5.0),
            ("a", READ, 4.0),
            ("a", READ, 6.0),
            ("a", DELETE, 7.0),
            ("a", READ, 8.0),
        )
        assert (
            optimum_hits(trace, 10, next_reads(trace)) == replay(trace, Settings()).total.hits == 1
        )

    def test_many_hits_leave_no_long_trail(self) -> None:
        trace = keys_only([0, 1, 2] * 20_000)
        assert optimum_hits(trace, 3, next_reads(trace)) == len(trace) - 3


class TestReading:
    LINES = HEADER + "5,x,acme,10,get,0\n6,y,globex,,set,60\n6,x,acme,0,gets,\n"

    @pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
    def test_compressed_files(self, write: Callable[..., str], suffix: str) -> None:
        data = self.LINES.encode()
        if suffix == ".gz":
            data = gzip.compress(data)
        elif suffix == ".xz":
            data = lzma.compress(data)
        elif suffix == ".zst":
            reason = "zstandard, of the extra `replay`, is not installed, or cannot be"
            compress = pytest.importorskip("zstandard", reason=reason).ZstdCompressor().compress
            # Two frames, one after the other, as log rotation leaves them.
            data = compress(data[:30]) + compress(data[30:])
        trace = read_trace(write(data, f"log.csv{suffix}"), Layout())
        assert len(trace) == 3
        assert trace.tenant_names == ["acme", "globex"]
        assert list(trace.keys) == [0, 1, 0]
        assert trace.operations == bytearray([READ, SET, READ])
        assert trace.sizes is not None
        assert list(trace.sizes) == [10, 0, 10]
        assert trace.ttls is not None
        assert list(trace.ttls) == [0.0, 60.0, 0.0]

    @pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
    def test_a_file_that_was_cut_short(self, write: Callable[..., str], suffix: str) -> None:
        # Noise does not compress: the cut is in the middle of the data.
        data = HEADER.encode() + b"".join(
            b"1,%x,a,1,get,0\n" % random.getrandbits(90) for _ in range(2_000)
        )
        if suffix == ".zst":
            reason = "zstandard, of the extra `replay`, is not installed, or cannot be"
            data = pytest.importorskip("zstandard", reason=reason).ZstdCompressor().compress(data)
        else:
            data = (gzip if suffix == ".gz" else lzma).compress(data)
        with pytest.raises(TraceError, match="damaged or cut short"):
            read_trace(write(data[: len(data) // 2], f"log{suffix}"), Layout())
        with pytest.raises(TraceError, match="damaged or cut short"):
            read_trace(write(b"\xff" * 50, f"log{suffix}"), Layout())

    def test_columns_by_other_names_in_another_order(self, write: Callable[..., str]) -> None:
        path = write("customer;at;ignored;url\nacme;1500;?;/a;b\n".replace("/a;b", '"/a;b"'))
        layout = Layout(
            roles={"tenant": "customer", "time": "at", "key": "url"}, delimiter=";", time_unit="ms"
        )
        trace = read_trace(path, layout)
        assert trace.times is not None
        assert list(trace.times) == [1.5]
        assert trace.tenant_names == ["acme"]
        assert trace.operations is trace.ttls is trace.sizes is None

    def test_the_twitter_preset(self, write: Callable[..., str]) -> None:
        path = write(
            '0,q:"q:1,5,249,1,get,0\n0,k,1,0,2,get,0\n1,k,1,30,2,add,60\n1,k,1,0,2,get,0\n'
        )
        trace = read_trace(path, TWITTER)
        assert trace.tenant_names == ["1", "2"]
        assert trace.distinct_keys == 2
        assert trace.sizes is not None
        assert list(trace.sizes) == [254, 1, 31, 31]
        assert trace.ttls is not None
        assert list(trace.ttls) == [0, 0, 60, 60]

    def test_binary_keys(self, write: Callable[..., str]) -> None:
        path = write(bytes.fromhex("00000001 fffffffe 00000001"), "keys.trace")
        trace = read_trace(path, None)
        assert list(trace.keys) == [0, 1, 0]
        with pytest.raises(TraceError, match="record 4: 2 bytes where a key has 4"):
            read_trace(write(bytes(14), "keys.trace"), None)
        assert read_trace(write(bytes(14), "keys.trace"), None, skip_bad=True).skipped == 1

    def test_time_never_runs_backwards(self, write: Callable[..., str]) -> None:
        trace = read_trace(write("time,key\n5,a\n4,b\n6,c\n"), Layout())
        assert trace.times is not None
        assert list(trace.times) == [5, 5, 6]
        assert trace.late == 1

    def test_a_byte_order_mark_blank_lines_and_crlf(self, write: Callable[..., str]) -> None:
        trace = read_trace(write("\ufeffkey,time\r\na,1\r\n\r\nb,2\r\n"), Layout())
        assert len(trace) == 2

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("1,k,acme,10,get", "expected 6 fields, found 5"),
            ("now,k,acme,10,get,0", "the time is not a number: 'now'"),
            ("nan,k,acme,10,get,0", "the time must be finite and at least 0: 'nan'"),
            ("-1,k,acme,10,get,0", "the time must be finite and at least 0: '-1'"),
            (",k,acme,10,get,0", "the time is not a number: ''"),
            ("1,k,,10,get,0", "the tenant must be 1 to 256 characters"),
            ("1,k, acme,10,get,0", "the tenant must be 1 to 256 characters"),
            ("1,k," + 257 * "a" + ",10,get,0", "the tenant must be 1 to 256 characters"),
            ("1,k,acme,1.5,get,0", "the size must be a whole number of bytes: '1.5'"),
            ("1,k,acme,1e300,get,0", "the size must be a whole number of bytes"),
            ("1,k,acme,10,frob,0", "unknown operation 'frob'; known: get, gets"),
            ("1,k,acme,10,get,inf", "the TTL must be finite and at least 0: 'inf'"),
            ("1,k,acme,10,get,soon", "the TTL is not a number: 'soon'"),
            ('1,"k"x,acme,10,get,0', "',' expected after '\"'"),
            (b"1,\xff,acme,10,get,0", r"the key is not UTF-8: '\udcff'"),
            (b"1,k,\xff,10,get,0", r"the tenant is not UTF-8: '\udcff'"),
        ],
    )
    def test_a_malformed_line_is_named_or_counted(
        self, write: Callable[..., str], line: str | bytes, complaint: str
    ) -> None:
        bad = line if isinstance(line, bytes) else line.encode()
        path = write(HEADER.encode() + b"1,k,acme,10,get,0\n" + bad + b"\n2,k,acme,10,get,0\n")
        with pytest.raises(TraceError) as caught:
            read_trace(path, Layout())
        assert f"log.csv: line 3: {complaint}" in str(caught.value)
        trace = read_trace(path, Layout(), skip_bad=True)
        assert (len(trace), trace.skipped, trace.distinct_keys) == (2, 1, 1)
        assert trace.first_skipped in str(caught.value)
        assert trace.tenant_names == ["acme"]

    def test_an_open_quote_is_named_where_it_opens(self, write: Callable[..., str]) -> None:
        path = write('key,time\na,1\n"b,2\nc,3\nd,4\n')
        with pytest.raises(TraceError, match="line 3: unexpected end of data"):
            read_trace(path, Layout())

    def test_columns_that_are_not_there(self, write: Callable[..., str]) -> None:
        with pytest.raises(TraceError, match="no column 'key'; name the one"):
            read_trace(write("a,b\n1,2\n"), Layout())
        with pytest.raises(TraceError, match="no column 'url' for the key; there are: 'a', 'b'"):
            read_trace(write("a,b\n1,2\n"), Layout(roles={"key": "url"}))

    @pytest.mark.parametrize("text", ["", "key\n", "key,time\nx,y\n"])
    def test_a_log_without_requests(self, write: Callable[..., str], text: str) -> None:
        with pytest.raises(TraceError, match=r"log\.csv: holds no request"):
            read_trace(write(text), Layout(), skip_bad=True)

    def test_a_header_that_is_no_csv(self, write: Callable[..., str]) -> None:
        path = write("key," + "x" * 200_000 + "\n")
        with pytest.raises(TraceError, match="line 1: field larger than field limit"):
            read_trace(path, Layout())

    def test_progress_ends_at_the_size_of_the_file(self, write: Callable[..., str]) -> None:
        told: list[int] = []
        path = write("key\n" + "".join(f"{at}\n" for at in range(30_000)))
        read_trace(path, Layout(), progress=told.append)
        assert told == sorted(told)
        assert Path(path).stat().st_size / 2 < told[-1] <= Path(path).stat().st_size


class TestCommandLine:
    @pytest.fixture
    def log(self, write: Callable[..., str]) -> str:
        lines = [
            f"{at},{key},{'acme' if key % 3 else 'globex'},{key % 7 + 1},get,0\n"
            for at, key in enumerate(skewed_keys(2))
        ]
        return write(HEADER + "".join(lines))

    def test_one_replay_as_tables(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        assert main([log, "--max-entries", "50"]) == OK
        captured = capsys.readouterr()
        assert "3,000 requests of 2 tenants" in captured.out
        for word in ("A cache of 50 entries", "acme", "globex", "hit ratio", "At its fullest: 50"):
            assert word in captured.out
        assert captured.err == ""

    def test_several_sizes_as_tables(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        assert main([log, "--sizes", "1%,20%", "--top", "1"]) == OK
        output = capsys.readouterr().out
        assert "optimum" in output
        assert "worst tenant" in output
        assert "by tenant (1 of 2)" in output

    def test_what_a_table_says_of_tenants_that_are_left_out_and_values_refused(
        self, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        lines = [f"{10 - at},{at % 4},tenant{at % 4},{900 * (at % 4) + 100}\n" for at in range(8)]
        path = write("time,key,tenant,size\n" + "".join(lines))
        assert main([path, "--max-weight", "2k", "--top", "1"]) == OK
        output = capsys.readouterr().out
        assert "A cache of 2.0 kB" in output
        assert "3 others" in output
        assert "7 requests are older than the one before them" in output
        assert "2 values were heavier than a limit and not stored" in output

    def test_sizes_of_a_log_of_nothing_but_keys(
        self, write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        path = write("key\n" + "".join(f"{key}\n" for key in skewed_keys(3)))
        assert main([path, "--sizes", "10,100", "--no-optimum"]) == OK
        output = capsys.readouterr().out
        assert "Hit ratio against size" in output
        assert "worst tenant" not in output
        assert "peak data" not in output
        assert "by tenant" not in output
        pytest.importorskip(
            "matplotlib", reason="matplotlib, of the extra `replay`, is not installed"
        )
        plot = tmp_path / "curve.svg"
        run_json(capsys, path, "--sizes", "10,100", "--no-optimum", "--plot", str(plot))
        drawn = plot.read_text(encoding="utf-8")
        assert "flowcache" in drawn
        assert "optimum (Belady)" not in drawn
        assert "worst tenant" not in drawn

    def test_presets(self, write: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
        keys = array("i", [1, 2, 1])
        if sys.byteorder == "little":
            keys.byteswap()
        report = run_json(capsys, write(keys.tobytes(), "keys.bin"), "--preset", "int32be")
        assert (report["requests"], report["runs"][0]["total"]["hits"]) == (3, 1)
        path = write("0,k,1,10,5,get,0\n1,k,1,10,5,get,0\n", "cluster.csv")
        report = run_json(capsys, path, "--preset", "twitter")
        assert (report["requests"], report["runs"][0]["total"]["hits"]) == (2, 1)

    def test_options_that_have_no_effect_are_mentioned(
        self, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([write("key,ttl\na,5\n"), "--json", "--no-fill"]) == OK
        said = capsys.readouterr().err
        assert "a column of TTLs but none of times: nothing expires" in said
        assert "with --no-fill nothing is ever stored" in said

    def test_a_terminal_has_a_width_and_gets_bars(
        self, log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "90")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert main([log, "--sizes", "50"]) == OK
        captured = capsys.readouterr()
        assert "read log.csv" in captured.err
        assert "optimum 50" in captured.err
        assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", captured.out).splitlines())) <= 90
        assert main([log, "--sizes", "50", "--quiet"]) == OK
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("count", "words"),
        [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (5e15, "5000.0 TB")],
    )
    def test_amounts(self, count: float, words: str) -> None:
        assert amount(count) == words

    def test_sizes_in_json(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        report = run_json(capsys, log, "--sizes", "10,10%,50%")
        assert report["requests"] == 3_000
        sizes = [run["max_entries"] for run in report["runs"]]
        assert sizes == [
            10,
            round(0.1 * report["distinct_keys"]),
            round(0.5 * report["distinct_keys"]),
        ]
        ratios = [run["hit_ratio"] for run in report["runs"]]
        assert ratios == sorted(ratios)
        for run in report["runs"]:
            assert run["hit_ratio"] <= run["optimum"] <= 1
            assert sum(tenant["hits"] for tenant in run["tenants"].values()) == run["total"]["hits"]

    def test_limits_of_tenants(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        limits = ("--per-tenant", "max_entries=5", "--tenant", "globex:max_entries=9,share=2")
        [run] = run_json(capsys, log, *limits)["runs"]
        assert run["tenants"]["acme"]["entries"] == 5
        assert run["tenants"]["globex"]["entries"] == 9

    def test_a_bound_by_weight(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        [run] = run_json(capsys, log, "--max-weight", "0.1k")["runs"]
        assert run["max_entries"] is None
        assert run["max_weight"] == 100
        assert 90 < run["peak_weight"] <= 100

    def test_a_default_ttl_and_no_fill(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        [run] = run_json(capsys, log, "--default-ttl", "1.5")["runs"]
        assert run["total"]["expirations"] > 100
        [run] = run_json(capsys, log, "--no-fill")["runs"]
        assert run["total"]["sets"] == 0

    def test_a_log_without_a_header(
        self, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write("7|a|1\n8|a|2\n")
        report = run_json(
            capsys, path, "--columns", "time, url,x", "--key-column", "url", "--delimiter", "|"
        )
        assert report["runs"][0]["hit_ratio"] == 0.5

    def test_skipped_lines_are_reported(
        self, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        path = write("key,time\na,1\na,x\na,3\n")
        assert main([path]) == BAD_TRACE
        assert "log.csv: line 3: the time is not a number: 'x'" in capsys.readouterr().err
        assert main([path, "--skip-bad"]) == OK
        assert "skipped 1 malformed; the first: " in capsys.readouterr().out
        assert run_json(capsys, path, "--skip-bad")["skipped"] == 1

    def test_names_from_the_log_are_printed_as_they_are(
        self, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
        assert main([write("key,tenant\na,[red]acme\na,a\x1b[2Jb\n")]) == OK
        output = capsys.readouterr().out
        assert "[red]acme" in output
        assert "\x1b" not in output

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--max-entries", "0"], "neither a number above 0 nor a percentage"),
            (["--max-entries", "101%"], "neither a number above 0 nor a percentage"),
            (["--sizes", "1%,,5%"], "neither a number above 0 nor a percentage"),
            (["--max-weight", "12X"], "not a number of bytes"),
            (["--max-weight", "infk"], "not a number of bytes"),
            (["--default-ttl", "0"], "not a number of seconds above 0"),
            (["--default-ttl", "never"], "not a number of seconds above 0"),
            (["--default-ttl", "nan"], "not a number of seconds above 0"),
            (["--per-tenant", "max=5"], "is not one of max_entries="),
            (["--per-tenant", "reserved=x"], "not a number"),
            (["--per-tenant", "share=-1"], "share"),
            (["--tenant", "reserved=5"], "is not NAME:SETTING=NUMBER"),
            (["--delimiter", "ab"], "is not one character"),
            (["--top", "-1"], "not a number of rows"),
            (["--preset", "twitter", "--key-column", "k"], "leave the others out"),
        ],
    )
    def test_wrong_usage(
        self, log: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main([log, *arguments])
        assert caught.value.code == BAD_USAGE
        assert complaint in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--max-weight", "5"], "--max-weight needs a column of sizes"),
            (["--default-ttl", "5"], "--default-ttl needs a column of times"),
            (["--tenant", "a:share=2"], "limits of tenants need a column of tenants"),
            (["--per-tenant", "share=2"], "limits of tenants need a column of tenants"),
        ],
    )
    def test_limits_that_this_log_cannot_be_held_to(
        self,
        write: Callable[..., str],
        arguments: list[str],
        complaint: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main([write("key\na\n"), "--json", *arguments])
        assert caught.value.code == BAD_USAGE
        assert complaint in capsys.readouterr().err

    def test_reservations_over_the_bound(
        self, log: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert (
            main([log, "--json", "--max-entries", "5", "--tenant", "acme:reserved=6"]) == BAD_USAGE
        )
        assert "max_entries=5" in capsys.readouterr().err

    def test_a_tenant_that_never_asks_is_mentioned(
        self, log: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([log, "--json", "--tenant", "amce:share=2"]) == OK
        assert "no request is of tenant 'amce'" in capsys.readouterr().err

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["/nowhere/log.csv", "--json"]) == BAD_TRACE
        assert "/nowhere/log.csv: No such file" in capsys.readouterr().err

    def test_an_interrupt(
        self, log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("flowcache.cli.replay.read_trace", interrupted)
        assert main([log, "--json"]) == INTERRUPTED
        assert "interrupted" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("module", "arguments"),
        [
            ("rich", []),
            ("matplotlib", ["--json", "--plot", "x.png"]),
            ("zstandard", ["--json", "--compression", "zst"]),
        ],
    )
    def test_a_library_that_is_missing_is_named_with_its_extra(
        self,
        log: str,
        module: str,
        arguments: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        assert main([log, *arguments]) == BAD_USAGE
        assert f'needs {module}: pip install "flowcache[replay]"' in capsys.readouterr().err

    def test_a_library_that_is_broken_is_not_called_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "broken_library.py").write_text("import another_library_that_is_missing")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match="another_library"):
            extras.need("broken_library", "this test")

    def test_a_plot(self, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip(
            "matplotlib", reason="matplotlib, of the extra `replay`, is not installed"
        )
        plot = tmp_path / "curve.png"
        report = run_json(capsys, log, "--plot", str(plot))
        assert plot.read_bytes().startswith(b"\x89PNG")
        sizes = [run["max_entries"] for run in report["runs"]]
        assert sizes == sorted(set(sizes))
        assert (
            main([log, "--json", "--sizes", "5", "--plot", str(tmp_path / "no" / "x.png")])
            == BAD_USAGE
        )
        assert "--plot: cannot write" in capsys.readouterr().err
        assert (
            main([log, "--json", "--sizes", "5", "--plot", str(tmp_path / "x.nonsense")])
            == BAD_USAGE
        )

    @pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress])
    def test_standard_input_plain_or_compressed(
        self, log: str, compress: Callable[[bytes], bytes]
    ) -> None:
        finished = subprocess.run(
            [sys.executable, "-m", "flowcache", "replay", "-", "--json", "--max-entries", "50"],
            input=compress(Path(log).read_bytes()),
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert finished.returncode == OK, finished.stderr
        assert json.loads(finished.stdout)["requests"] == 3_000
        assert finished.stderr == b""

    def test_a_reader_that_leaves_early_is_no_error(self, log: str) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "flowcache", "replay", log, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(timeout=120) == OK

    def test_help_names_every_column_and_exit_status(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == OK
        output = " ".join(capsys.readouterr().out.split())
        for role in ("time", "key", "tenant", "size", "operation", "ttl"):
            assert f"--{role}-column" in output
        assert "exit status: 0 done; 1 the log cannot be read" in output
        assert "1%,5%,20%" in output
