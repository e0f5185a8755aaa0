"""What pages ask of the probe: they never wait for it, and it runs once for all of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from bench import modes
from bench.core import child
from bench.device import cpu
from bench.modes import probe
from bench.modes.probe import Availability

ASK = probe._ask
ANSWER = dict.fromkeys(modes.modes(), Availability("available"))


class Asked:
    """Stands for the subprocess: answers when it is allowed to, and counts."""

    def __init__(self) -> None:
        self.times, self.may_answer = 0, threading.Event()
        self.answer: dict[str, Availability] | str = ANSWER

    def __call__(self) -> dict[str, Availability] | str:
        self.times += 1
        assert self.may_answer.wait(30)
        return self.answer


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(probe, "_answer", {})
    monkeypatch.setattr(probe, "_failure", None)
    monkeypatch.setattr(probe, "_background", None)
    stand_in = Asked()
    monkeypatch.setattr(probe, "_ask", stand_in)
    yield stand_in
    stand_in.may_answer.set()
    if probe._background:
        probe._background.join(30)


def ended() -> bool:
    return probe._background is not None and not probe._background.is_alive()


def test_pages_do_not_wait_and_ask_once(asked: Asked) -> None:
    assert [probe.at_hand() for _ in range(5)] == [None] * 5
    blocking = threading.Thread(target=probe.availability)
    blocking.start()  # the command line waits for the same answer
    asked.may_answer.set()
    blocking.join(30)
    wait_for(ended, "the probe", 30, 0.01)
    assert probe.at_hand() == probe.availability() == ANSWER
    assert asked.times == 1


def test_a_failure_is_told_and_tried_again_after_a_while(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.answer = "no memory"
    asked.may_answer.set()
    assert probe.at_hand() is None
    wait_for(ended, "the probe", 30, 0.01)
    failed = probe.at_hand()
    assert failed and all(a == Availability("unavailable", "asking failed: no memory") for a in failed.values())
    assert asked.times == 1, "the failure stands for a while"
    monkeypatch.setattr(probe, "RETRY_S", 0.0)
    asked.answer = ANSWER
    assert probe.at_hand() is None
    wait_for(ended, "the probe", 30, 0.01)
    assert probe.at_hand() == ANSWER and asked.times == 2


def test_a_remembered_answer_takes_no_process(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    file = probe._cache_file()
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"key": probe._key(), "modes": {name: asdict(a) for name, a in ANSWER.items()}}))
    assert probe.at_hand() == ANSWER and asked.times == 0
    monkeypatch.setattr(probe, "_answer", {})
    monkeypatch.setattr(cpu, "cpu_name", lambda: "another processor")
    assert probe.at_hand() is None, "it was remembered for another processor"


def test_no_probe_starts_where_it_would_disturb(asked: Asked) -> None:
    assert [probe.at_hand(may_start=False) for _ in range(3)] == [None] * 3
    assert probe._background is None and asked.times == 0
    asked.may_answer.set()
    assert probe.availability() == ANSWER  # the command line decides for itself
    assert probe.at_hand(may_start=False) == ANSWER


@pytest.fixture
def process(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that were asked in a process; each answers at once."""
    modules: list[str] = []

    def ask(module: str, timeout_s: float) -> dict[str, Any]:
        modules.append(module)
        return {name: asdict(a) for name, a in ANSWER.items()}

    monkeypatch.setattr(probe, "_ask", ASK)
    monkeypatch.setattr(child, "ask", ask)
    return modules


def test_an_answer_that_can_not_be_written_holds(
    process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "file"))  # nothing can be written below a file
    assert probe.at_hand() is None
    wait_for(ended, "the probe", 30, 0.01)
    assert probe.at_hand() == ANSWER and len(process) == 1


def test_an_answer_is_remembered_where_a_link_leads(
    process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, target = tmp_path / "cache" / "modes.json", tmp_path / "elsewhere.json"
    link.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):
        assert probe.availability() == ANSWER and len(process) == 1
        monkeypatch.setattr(probe, "_answer", {})
    assert link.is_symlink() and sorted(f.name for f in tmp_path.iterdir()) == ["cache", "elsewhere.json"]


@pytest.mark.parametrize(
    "cached", ["{", [], None, {}, {"modes": {}}, {"modes": []}, {"modes": {"a": []}}, {"modes": {"a": {"speed": 1}}}]
)
def test_a_memory_of_another_form_is_none(cached: Any, process: list[str]) -> None:
    file = probe._cache_file()
    file.parent.mkdir(parents=True)
    if isinstance(cached, dict):
        cached["key"] = probe._key()
    file.write_text(cached if isinstance(cached, str) else json.dumps(cached))
    assert probe.availability() == ANSWER and len(process) == 1
    assert json.loads(file.read_text())["key"] == probe._key()


def test_the_fastest_mode_is_the_first_of_the_list_that_is_usable() -> None:
    names = list(modes.modes())
    best = modes.fastest(names)
    assert modes.find(best).SPEC.activations.bits == 8
    second = modes.fastest([n for n in names if n != best])
    assert second and second != best
    assert modes.fastest([]) == "" == modes.fastest(modes.first())
