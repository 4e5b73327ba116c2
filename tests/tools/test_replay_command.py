"""`flowcache replay`: its options, its reports, and its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from flowcache.cli import INTERRUPTED, OK
from flowcache.cli.replay import BAD_TRACE, BAD_USAGE
from flowcache.replay import extras
from flowcache.replay.report import amount
from harness.replay_support import HEADER, main, run_json, skewed_keys


@pytest.fixture
def log(write: Callable[..., str]) -> str:
    lines = [
        f"{at},{key},{'acme' if key % 3 else 'globex'},{key % 7 + 1},get,0\n"
        for at, key in enumerate(skewed_keys(2))
    ]
    return write(HEADER + "".join(lines))


def test_one_replay_as_tables(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    assert main([log, "--max-entries", "50"]) == OK
    captured = capsys.readouterr()
    assert "3,000 requests of 2 tenants" in captured.out
    for word in ("A cache of 50 entries", "acme", "globex", "hit ratio", "At its fullest: 50"):
        assert word in captured.out
    assert captured.err == ""


def test_several_sizes_as_tables(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    assert main([log, "--sizes", "1%,20%", "--top", "1"]) == OK
    output = capsys.readouterr().out
    assert "optimum" in output
    assert "worst tenant" in output
    assert "by tenant (1 of 2)" in output


def test_what_a_table_says_of_tenants_that_are_left_out_and_values_refused(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    lines = [f"{at},{at % 4},tenant{at % 4},{900 * (at % 4) + 100}\n" for at in range(8)]
    lines[5:5] = ["3,0,tenant0,100\n"]
    path = write("time,key,tenant,size\n" + "".join(lines))
    assert main([path, "--max-weight", "2k", "--top", "1"]) == OK
    output = capsys.readouterr().out
    assert "A cache of 2.0 kB" in output
    assert "3 others" in output
    assert "1 request is older than the one before it" in output
    assert "2 values were heavier than a limit and not stored" in output


def test_sizes_of_a_log_of_nothing_but_keys(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    path = write("key\n" + "".join(f"{key}\n" for key in skewed_keys(3)))
    assert main([path, "--sizes", "10,100", "--no-optimum"]) == OK
    output = capsys.readouterr().out
    assert "Hit ratio against size" in output
    assert "worst tenant" not in output
    assert "peak data" not in output
    assert "by tenant" not in output
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `replay`, is not installed")
    plot = tmp_path / "curve.svg"
    run_json(capsys, path, "--sizes", "10,100", "--no-optimum", "--plot", str(plot))
    drawn = plot.read_text(encoding="utf-8")
    assert "flowcache" in drawn
    assert "optimum (Belady)" not in drawn
    assert "worst tenant" not in drawn


def test_presets(write: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    keys = array("i", [1, 2, 1])
    if sys.byteorder == "little":
        keys.byteswap()
    report = run_json(capsys, write(keys.tobytes(), "keys.bin"), "--preset", "int32be")
    assert (report["requests"], report["runs"][0]["total"]["hits"]) == (3, 1)
    path = write("0,k,1,10,5,get,0\n1,k,1,10,5,get,0\n", "cluster.csv")
    report = run_json(capsys, path, "--preset", "twitter")
    assert (report["requests"], report["runs"][0]["total"]["hits"]) == (2, 1)


def test_options_that_have_no_effect_are_mentioned(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write("key,ttl\na,5\n"), "--json", "--no-fill"]) == OK
    said = capsys.readouterr().err
    assert "a column of TTLs but none of times: nothing expires" in said
    assert "with --no-fill nothing is ever stored" in said


def test_a_terminal_has_a_width_and_gets_bars(
    log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
def test_amounts(count: float, words: str) -> None:
    assert amount(count) == words


def test_sizes_in_json(log: str, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("size", [("--sizes", "50"), ("--max-entries", "50")])
def test_policies_side_by_side(
    size: tuple[str, str], log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    plot = ("--plot", str(tmp_path / "curve.png")) if size[0] == "--sizes" else ()
    report = run_json(capsys, log, *size, "--eviction", "lru,tinylfu", *plot)
    exact, other = report["runs"]
    assert [run["eviction"] for run in (exact, other)] == ["lru", "tinylfu"]
    assert exact["optimum"] == other["optimum"] > max(exact["hit_ratio"], other["hit_ratio"])
    assert exact["hit_ratio"] != other["hit_ratio"]
    assert exact["total"]["rejections"] == 0 < other["total"]["rejections"]
    assert main([log, *size, "--eviction", "tinylfu,lru"]) == OK
    output = capsys.readouterr().out
    assert "eviction" in output and output.index("tinylfu") < output.index("lru ")
    [alone] = run_json(capsys, log, "--max-entries", "50")["runs"]
    assert alone["eviction"] == "lru" and alone["hit_ratio"] == exact["hit_ratio"]


def test_advice_beside_the_truth(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    report = run_json(capsys, log, "--sizes", "20,40", "--advice", "--no-optimum")
    small, large = report["runs"]
    assert list(small["advice"]) == ["1.25", "1.5", "2"]
    for run in (small, large):
        for rates in run["advice"].values():
            assert run["hit_ratio"] < rates["true"]
            assert rates["told"] == pytest.approx(rates["true"], abs=0.05)
    assert small["advice"]["2"]["true"] == large["hit_ratio"]
    [alone] = run_json(capsys, log, "--max-entries", "20")["runs"]
    assert alone["advice"] == {} and alone["hit_ratio"] == small["hit_ratio"]
    assert main([log, "--max-entries", "20", "--advice"]) == OK
    output = capsys.readouterr().out
    assert "More room: told, and true" in output and "1.25 x" in output


def test_limits_of_tenants(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--per-tenant", "max_entries=5", "--tenant", "globex:max_entries=9,share=2")
    [run] = run_json(capsys, log, *limits)["runs"]
    assert run["tenants"]["acme"]["entries"] == 5
    assert run["tenants"]["globex"]["entries"] == 9


def test_a_bound_by_weight(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    [run] = run_json(capsys, log, "--max-weight", "0.1k")["runs"]
    assert run["max_entries"] is None
    assert run["max_weight"] == 100
    assert 90 < run["peak_weight"] <= 100


def test_a_default_ttl_and_no_fill(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    [run] = run_json(capsys, log, "--default-ttl", "1.5")["runs"]
    assert run["total"]["expirations"] > 100
    [run] = run_json(capsys, log, "--no-fill")["runs"]
    assert run["total"]["sets"] == 0


def test_a_log_without_a_header(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("7|a|1\n8|a|2\n")
    report = run_json(
        capsys, path, "--columns", "time, url,x", "--key-column", "url", "--delimiter", "|"
    )
    assert report["runs"][0]["hit_ratio"] == 0.5


def test_skipped_lines_are_reported(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    path = write("key,time\na,1\na,x\na,3\n")
    assert main([path]) == BAD_TRACE
    assert "log.csv: line 3: the time is not a number: 'x'" in capsys.readouterr().err
    assert main([path, "--skip-bad"]) == OK
    assert "skipped 1 malformed; the first: " in capsys.readouterr().out
    assert run_json(capsys, path, "--skip-bad")["skipped"] == 1


def test_names_from_the_log_are_printed_as_they_are(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
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
        (["--eviction", "fifo"], "is not lru, tinylfu or lru,tinylfu"),
        (["--eviction", "lru,lru"], "is not lru, tinylfu or lru,tinylfu"),
        (["--max-weight", "12X"], "not a number of bytes"),
        (["--max-weight", "infk"], "not a number of bytes"),
        (["--max-weight", "9999999999G"], "not a number of bytes"),
        (["--max-entries", "9" * 30], "neither a number above 0 nor a percentage"),
        (["--default-ttl", "0"], "not a number of seconds above 0"),
        (["--default-ttl", "never"], "not a number of seconds above 0"),
        (["--default-ttl", "nan"], "not a number of seconds above 0"),
        (["--per-tenant", "max=5"], "is not one of max_entries="),
        (["--per-tenant", "reserved=x"], "not a number"),
        (["--per-tenant", "share=-1"], "share"),
        (["--tenant", "reserved=5"], "is not NAME:SETTING=NUMBER"),
        (["--delimiter", "ab"], "is not one character"),
        (["--delimiter", '"'], "is not one character"),
        (["--delimiter", "\0"], "is not one character"),
        (["--top", "-1"], "not a number of rows"),
        (["--preset", "twitter", "--key-column", "k"], "leave the others out"),
    ],
)
def test_wrong_usage(
    log: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([log, *arguments])
    assert caught.value.code == BAD_USAGE
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--max-weight", "5"], "--max-weight needs a column of sizes"),
        (["--advice", "--eviction", "tinylfu"], "--advice is told of --eviction lru alone"),
        (["--default-ttl", "5"], "--default-ttl needs a column of times"),
        (["--tenant", "a:share=2"], "limits of tenants need a column of tenants"),
        (["--per-tenant", "share=2"], "limits of tenants need a column of tenants"),
    ],
)
def test_limits_that_this_log_cannot_be_held_to(
    write: Callable[..., str],
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([write("key\na\n"), "--json", *arguments])
    assert caught.value.code == BAD_USAGE
    assert complaint in capsys.readouterr().err


def test_reservations_over_the_bound(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([log, "--json", "--max-entries", "5", "--tenant", "acme:reserved=6"]) == BAD_USAGE
    assert "max_entries=5" in capsys.readouterr().err


def test_a_tenant_that_never_asks_is_mentioned(
    log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([log, "--json", "--tenant", "amce:share=2"]) == OK
    assert "no request is of tenant 'amce'" in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/log.csv", "--json"]) == BAD_TRACE
    assert "/nowhere/log.csv: No such file" in capsys.readouterr().err


def test_an_interrupt(
    log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
        pytest.param(
            "backports.zstd",
            ["--json", "--compression", "zst"],
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 14), reason="zstandard is in the standard library"
            ),
        ),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    log: str,
    module: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main([log, *arguments]) == BAD_USAGE
    assert f'needs {module}: pip install "flowcache[replay]"' in capsys.readouterr().err


def test_a_library_that_is_broken_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text("import another_library_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_library"):
        extras.need("broken_library", "this test")


def test_a_plot(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `replay`, is not installed")
    plot = tmp_path / "curve.png"
    report = run_json(capsys, log, "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    sizes = [run["max_entries"] for run in report["runs"]]
    assert sizes == sorted(set(sizes))
    assert (
        main([log, "--json", "--sizes", "5", "--plot", str(tmp_path / "no" / "x.png")]) == BAD_USAGE
    )
    assert "--plot: cannot write" in capsys.readouterr().err
    assert (
        main([log, "--json", "--sizes", "5", "--plot", str(tmp_path / "x.nonsense")]) == BAD_USAGE
    )


def test_a_reader_that_leaves_early_is_no_error(log: str) -> None:
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


def test_help_names_every_column_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == OK
    output = " ".join(capsys.readouterr().out.split())
    for role in ("time", "key", "tenant", "size", "operation", "ttl"):
        assert f"--{role}-column" in output
    assert "exit status: 0 done; 1 the log cannot be read" in output
    assert "1%,5%,20%" in output


@pytest.mark.parametrize("size", [("--sizes", "60"), ("--max-entries", "60")])
def test_ways_of_sharing_side_by_side(
    size: tuple[str, str],
    write: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rich", reason="rich, of the extra `replay`, is not installed")
    lines = [
        f"{at},{at if at % 2 else f'loop:{at % 72}'},{'scan' if at % 2 else 'loop'},1,get,0\n"
        for at in range(6_000)
    ]
    path = write(HEADER + "".join(lines))
    columns = ("--tenant-column", "tenant", *size)
    plot = ("--plot", str(tmp_path / "curve.png")) if size[0] == "--sizes" else ()
    report = run_json(
        capsys, path, *columns, "--sharing", "fair,utility", "--eviction", "lru,tinylfu", *plot
    )
    fair, utility, tiny = report["runs"]
    assert [run["sharing"] for run in report["runs"]] == ["fair", "utility", "fair"]
    assert tiny["eviction"] == "tinylfu"
    assert fair["hit_ratio"] == 0 and utility["hit_ratio"] > 0.4
    assert utility["total"]["borrowed"] > 0 == fair["total"]["borrowed"]
    assert main([path, *columns, "--sharing", "utility,fair"]) == OK
    output = capsys.readouterr().out
    assert "sharing" in output and output.index("utility") < output.index("fair ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sharing", "greedy"), "is not fair, utility or fair,utility"),
        (("--sharing", "utility,utility"), "is not fair, utility or fair,utility"),
        (("--sharing", "utility", "--eviction", "tinylfu"), "goes with --eviction lru alone"),
        (("--sharing", "utility", "--max-weight", "2k"), "needs a bound on entries"),
    ],
)
def test_ways_of_sharing_that_cannot_be(
    arguments: tuple[str, ...], words: str, log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([log, *arguments])
    assert ended.value.code == BAD_USAGE
    assert words in capsys.readouterr().err


def test_sharing_needs_tenants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    path.write_text("key\na\nb\n")
    with pytest.raises(SystemExit):
        main([str(path), "--sharing", "utility"])
    assert "needs a column of tenants" in capsys.readouterr().err
