"""Modules of EARBENCH_EXTRA: their names must be free, and what has no name is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import made

from bench import modes
from bench.core import extras
from bench.core.extras import ExtraError
from bench.core.paths import ROOT
from bench.families import families

NAMED = "from types import SimpleNamespace\n{} = SimpleNamespace({}={!r})\n"


@pytest.mark.parametrize(
    ("attribute", "field", "name"), [("FAMILY", "NAME", "wav2vec2"), ("MODE", "name", "torch-int8-dynamic")]
)
def test_a_name_of_earbenchs_own_is_refused(
    attribute: str, field: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, {f"twin_of_{attribute}.py": NAMED.format(attribute, field, name)})
    monkeypatch.syspath_prepend(tmp_path)
    listed = families if attribute == "FAMILY" else modes.modes
    ours = listed()[name]
    monkeypatch.setenv(extras.VARIABLE, f"twin_of_{attribute}")
    with pytest.raises(ExtraError) as e:
        listed()
    assert str(e.value).startswith(
        f"EARBENCH_EXTRA names twin_of_{attribute}, whose {attribute} is called “{name}”: Earbench itself has one of "
        "that name. Allowed: any name but "
    )
    assert str(e.value).endswith("Give it another name in that file.") and name in str(e.value).split("Allowed")[1]
    monkeypatch.delenv(extras.VARIABLE)
    assert listed()[name] is ours


def test_a_name_that_two_modules_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, {f"{module}.py": NAMED.format("MODE", "name", "mine") for module in ("mine_1", "mine_2")})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(extras.VARIABLE, "mine_1,mine_2")
    with pytest.raises(ExtraError, match="names mine_2, whose MODE is called “mine”: another of these modules has one"):
        modes.modes()


def test_what_has_no_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, {"nameless.py": "MODE = 3\n"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(extras.VARIABLE, "nameless")
    with pytest.raises(ExtraError, match=r"names nameless, whose MODE has no name \('int' object"):
        modes.modes()


def test_free_names_come_after_earbenchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, {"free.py": NAMED.format("MODE", "name", "my-mode")})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(extras.VARIABLE, "free")
    assert list(extras.with_own([SimpleNamespace(name="own")], "MODE", lambda m: m.name)) == ["own", "my-mode"]
    assert extras.with_own([], "FAMILY", lambda f: f.NAME) == {}


def test_the_command_line_says_it_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, {"twin_family.py": NAMED.format("FAMILY", "NAME", "wav2vec2")})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    monkeypatch.setenv(extras.VARIABLE, "twin_family")
    command = [sys.executable, "-m", "bench", "models"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "whose FAMILY is called “wav2vec2”" in done.stderr.replace("\n", " ")
