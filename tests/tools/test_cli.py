"""The console command: its verbs, its own options, and its exit status."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import flowcache
from flowcache import cli

ROOT = Path(__file__).resolve().parents[2]
AS_MODULE = [sys.executable, "-m", "flowcache"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def script() -> str:
    """The installed command, beside the interpreter."""
    suffix = ".exe" if sys.platform == "win32" else ""
    return str(Path(sys.executable).with_name(f"flowcache{suffix}"))


def test_the_command_and_the_module_are_one() -> None:
    for arguments in (["--version"], ["--help"], ["replay", "--help"], ["replay"], ["peel"]):
        installed, module = run(script(), *arguments), run(*AS_MODULE, *arguments)
        assert (installed.returncode, installed.stdout, installed.stderr) == (
            module.returncode,
            module.stdout,
            module.stderr,
        )


def test_the_project_declares_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"flowcache": "flowcache.cli:main"}
    (point,) = entry_points(group="console_scripts", name="flowcache")
    assert point.load() is cli.main


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"flowcache {flowcache.__version__}\n"


def test_the_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    for verb, line in cli.VERBS.items():
        assert f"  {verb}" in output
        assert line in output


def test_every_verb_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        with pytest.raises(SystemExit) as caught:
            cli.main([verb, "--help"])
        assert caught.value.code == 0
        assert f"usage: flowcache {verb} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: VERB"),
        (["peel"], "invalid choice: 'peel' (choose from"),
        (["Replay"], "invalid choice: 'Replay' (choose from"),
        (["-x", "replay"], "unrecognized arguments: -x"),
        (["--vers"], "required: VERB"),
        (["replay"], "required: TRACE"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: flowcache")
    assert complaint in said


def test_a_verb_is_imported_when_it_is_used() -> None:
    probe = (
        "import sys; from flowcache.cli import main\n"
        "try: main({arguments})\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('flowcache.cli.')])"
    )
    for arguments in (["--version"], ["--help"], ["peel"]):
        finished = run(sys.executable, "-c", probe.format(arguments=arguments))
        assert finished.stdout.splitlines()[-1] == "[]", finished.stderr
    finished = run(sys.executable, "-c", probe.format(arguments=["replay", "--help"]))
    assert "flowcache.cli.replay" in finished.stdout.splitlines()[-1]


def test_the_simulator_is_no_command_of_its_own() -> None:
    finished = run(sys.executable, "-m", "flowcache.replay", "--help")
    assert finished.returncode != 0
    assert "cannot be directly executed" in finished.stderr


def test_words_after_the_verb_are_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` after a verb is no option of the command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["replay", "--version", "log.csv"])
    assert caught.value.code == 2
    assert "flowcache replay: error: unrecognized arguments: --version" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("requests", [1, 4_000])
def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path, requests: int) -> None:
    log = tmp_path / "log.csv"
    log.write_text("key,tenant\n" + "".join(f"a,tenant{at}\n" for at in range(requests)))
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            [*AS_MODULE, "replay", str(log), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert finished.returncode == 2
    assert finished.stderr == (
        "flowcache replay: the report cannot be written: No space left on device\n"
    )
