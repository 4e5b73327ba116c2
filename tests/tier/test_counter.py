"""The counter of the processor is believed while the kernel keeps its own time by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcache import _core, create_cache
from flowcache.tier import counter
from flowcache.tier.held import Held
from flowcache.tier.layout import Layout


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the kernel names its source of time."""
    path = tmp_path / "current_clocksource"
    monkeypatch.setattr(counter, "SOURCE", path)
    return path


@pytest.mark.parametrize("name", ["kvm-clock", "hpet", "acpi_pm", "tsc-early", "arch_sys_counter"])
def test_other_sources_of_time_are_not_believed(source: Path, name: str) -> None:
    assert counter.counter_ticks() == 0  # Where there is no such file.
    source.write_text("tsc\n")
    assert counter.counter_ticks() == counter.TICKS
    source.write_text(f"{name}\n")
    assert counter.counter_ticks() == 0


def test_each_renewal_of_a_lease_asks_anew(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not _core._lease_ticks(0):
        pytest.skip("the core knows no counter of this processor and system")
    monkeypatch.setattr(counter, "TICKS", 1 << 62)
    cache = create_cache()
    _core._open_tier(cache, object(), 2.0)
    held = Held(cache._store(), Layout("fleet"), 0.0)
    for name, stands in (("tsc", True), ("hpet", False), ("tsc", True), ("kvm-clock", False)):
        source.write_text(f"{name}\n")
        held.lend(_core.lease_time() + 60)
        _core._testing.lease_reading(1.0, 0)
        assert (cache._now() == 1.0) is stands
