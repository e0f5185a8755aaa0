"""The commands and Python blocks of README and docs are run as they are written, with small values in place of large.

Each block has a data folder and a working folder of its own, in which the files that it names are there. What can't be
run here stands in NOT_RUN with the reason, and is checked for what it names.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from conftest import LIGHT, SHARED
from documents import Block, Command, blocks, commands
from test_serve import free_port
from typer.testing import CliRunner

from bench import modes
from bench.cli import app, best
from bench.core.lists import names, sizes
from bench.core.paths import ROOT, SHIPPED
from bench.core.records import ClipRecord
from bench.core.specs import EvaluationSpec, Placement, RunSpec, Variant
from bench.datasets import dataset
from bench.device import host
from bench.families import catalogue
from bench.jobs import manager, work
from bench.modes import check
from training import voices

PLACEHOLDERS = {"NAME"}  # what a reader fills in, where a mode is meant
# What takes minutes is measured with these in place of it. A mode and a model are replaced by ones that start quickly.
SMALL = {"1,5": "0.2,0.4", "5,10": "0.2", "1:20:5": "0.2:0.4:2", "1,4": "1,2", "1,2": "1", "4100": "30"}
SMALL_PYTHON = {
    '["demo"], ["onnx-fp32", "openvino-fp32"], [1]': '[MODEL], ["onnx-fp32", "openvino-fp32"], [0.2]',
    'placements=[Placement("cpu", 1)]': 'placements=[Placement("cpu", 1)], repeats=2, precision_target=1.0',
}
SMALLEST = {
    "run": ["--repeats", "2", "--target", "1"],
    "best": ["--length", "0.2", "--dataset", "data/clips"],
}
MEASURES = ("run", "evaluate", "best", "transcribe")
WAIT_S = 120.0
done: set[str] = set()


def words_of_sources(*words: str) -> Callable[[Command], None]:
    """The check that these files hold every word of the command that is no word of its own."""

    def checked(command: Command) -> None:
        text = "".join((ROOT / name).read_text() for name in words)
        for word in command.words[1:]:
            assert word.startswith("-") or word == "install" or word in text, word

    return checked


def paths_exist(command: Command) -> None:
    for word in command.words:
        if re.match(r"(tests|bench)/", word) or word.endswith(".txt"):
            assert (ROOT / word).exists(), word


def options_of_script(command: Command) -> None:
    """Measuring takes minutes; the script is there and names each option."""
    source = (ROOT / command.words[1]).read_text()
    assert all(f'"{word}"' in source for word in command.words if word.startswith("--"))


def nothing(_: Command) -> None:
    pass


# By the words that a command begins with: why it is not run, and what is checked instead.
NOT_RUN: dict[tuple[str, ...], tuple[str, Callable[[Command], None]]] = {
    (".", ".venv/bin/activate"): ("it changes the shell", nothing),
    ("export",): ("it changes the shell", nothing),
    ("make",): ("it installs, serves until Ctrl-C, or runs these tests", words_of_sources("Makefile")),
    ("python3", "-m", "venv"): ("the environment is there", nothing),
    ("pip", "install"): ("it needs a network", paths_exist),
    ("apt-get", "install"): ("it changes the system", words_of_sources(".ci/run")),
    ("ssh",): ("it needs a second device", nothing),
    (".venv/bin/python", "-m", "pytest"): ("tests don't run tests", paths_exist),
    (".venv/bin/ruff",): ("`make test` runs it", nothing),
    (".venv/bin/mypy",): ("`make test` runs it", nothing),
    (".venv/bin/lint-imports",): ("`make test` runs it", nothing),
    ("python", "tests/perf/opening.py"): ("it measures for minutes", options_of_script),
    ("python", "tests/perf/engines.py"): ("it measures for minutes", options_of_script),
    ("python", "tests/perf/fidelity.py"): ("it measures for minutes", options_of_script),
    ("python", "tests/perf/start.py"): ("it measures two checkouts for minutes", options_of_script),
    ("python", "tests/perf/interval.py"): ("it simulates for minutes", options_of_script),
}


@pytest.fixture(scope="module")
def prepared(cache: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the artefacts of the tiny model, and their coverages once they were counted."""
    own_cache = tmp_path_factory.mktemp("prepared") / "cache"
    for name in SHARED:
        (own_cache / name).mkdir(parents=True)
    for manifest in (cache / "artefacts").glob("[!.]*/artefact.json"):
        if json.loads(manifest.read_text())["model"] == str(tiny_model):
            shutil.copytree(manifest.parent, own_cache / "artefacts" / manifest.parent.name)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(cache / "coverage" / f"{manifest.parent.name}.json", own_cache / "coverage")
    (own_cache / "modes.json").symlink_to(cache / "modes.json")
    return own_cache


@pytest.fixture
def folder(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the files that commands name, and a data folder with a copy of the prepared cache."""
    clips, data = tmp_path / "data" / "clips", tmp_path / "store"
    chapter = tmp_path / "LibriSpeech" / "test-clean" / "1" / "2"
    clips.mkdir(parents=True), chapter.mkdir(parents=True)
    two = dataset.find(str(SHIPPED / "clips")).clips[:2]
    for clip in two:
        shutil.copy(clip.path, clips)
    shutil.copy(two[0].path, chapter / "1-2-0000.flac")
    (clips / "manifest.csv").write_text("path,text\n" + "".join(f"{c.path.name},{c.text}\n" for c in two))
    (chapter / "1-2.trans.txt").write_text(f"1-2-0000 {two[0].text.upper()}\n")
    shutil.copy(SHIPPED / "clips" / "benchmark-5s.wav", tmp_path / "recording.wav")
    shutil.copytree(prepared, data / "cache", symlinks=True)
    monkeypatch.setenv("EARBENCH_DATA", str(data))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    manager._jobs.cache_clear()
    yield tmp_path
    manager.jobs().shutdown()
    manager._jobs.cache_clear()
    shutil.copytree(data / "cache" / "coverage", prepared / "coverage", dirs_exist_ok=True)


@pytest.fixture
def model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model in place of every documented one. `best` has no option for fewer rounds, so it measures two."""
    grid = RunSpec.grid
    monkeypatch.setattr(best.RunSpec, "grid", lambda *a, **k: grid(*a, **{"repeats": 2, "precision_target": 1.0, **k}))
    return str(tiny_model)


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.name)
def test_the_commands_of_a_block(block: Block, folder: Path, model: str) -> None:
    for command in commands(block):
        listed = next(
            (checked for start, (_, checked) in NOT_RUN.items() if command.words[: len(start)] == start), None
        )
        if listed:
            listed(command)
        elif command.words:
            run(command, folder, model)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_blocks_run(block: Block, folder: Path, model: str) -> None:
    text = block.text
    for documented, small_value in SMALL_PYTHON.items():
        text = text.replace(documented, small_value)
    (folder / "block.py").write_text(text.replace("MODEL", repr(model)))
    (folder / "measurements").mkdir()
    (folder / "measurements" / "cache").symlink_to(folder / "store" / "cache")
    finished([sys.executable, "block.py"], Command(("python", block.name), {}), folder)


def run(command: Command, folder: Path, model: str) -> None:
    """Run a documented command with small values, and see that it does what it should.

    Pages repeat some commands. They are run once, except those that make a file for the next one.
    """
    if repeated(f"{command} {command.variables}", command.words):
        return
    words = list(command.words)
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[:2] == ["streamlit", "run"]:
        serves([sys.executable, "-m", *words, "--server.port"], command, folder)
    elif words[:4] == ["python", "-m", "bench", "serve"]:
        without_port = [w for i, w in enumerate(words[1:]) if "--port" not in words[i : i + 2]]
        serves([sys.executable, *without_port, "--port"], command, folder)
    elif words[:3] == ["python", "-m", "training"]:
        if not voices.missing():
            finished([sys.executable, *words[1:3], *small(words[3:], model)], command, folder)
            assert (folder / "DIR" / "manifest.csv").is_file()
    elif "EARBENCH_EXTRA" in command.variables:
        finished([sys.executable, *words[1:]], command, folder)
    else:
        assert words[:3] == ["python", "-m", "bench"], f"{command}: neither run nor in NOT_RUN"
        in_process(words[3:], folder, model)


def repeated(key: str, words: Sequence[str]) -> bool:
    """Whether a command was run before, and makes no file that the next one in its block takes."""
    was_run = key in done and not {"--out", "--bundle", ">"} & set(words)
    done.add(key)
    return was_run


def in_process(words: list[str], folder: Path, model: str) -> None:
    """Run the command line within this process, which saves a second of imports a command."""
    if words[0] == "fetch":
        result = invoke(words)
        assert result.exit_code == 2
        assert f"Error: {words[1]} is not on this device yet" in " ".join(result.stderr.split())
        return
    words, target = (words[:-2], words[-1]) if ">" in words else (words, "")
    arguments = small(words, model)
    if words[0] in MEASURES and not {"--resume", "--spec"} & set(words):
        arguments += [] if "--modes" in words else ["--modes", ",".join(LIGHT)]
        arguments += [] if "--model" in words else ["--model", model]
        arguments += SMALLEST.get(words[0], [])
    if not target and repeated(" ".join(arguments), words):
        return
    if "RUN" in arguments:
        arguments[arguments.index("RUN")] = stored(words, model)
    result = invoke(arguments, "y\n")
    assert result.exit_code == 0, f"{arguments}: {result.output}"
    assert result.output.strip(), arguments
    if target:
        (folder / target).write_text(result.stdout)
    for option in ("--csv", "--raw", "--json", "--out", "--bundle"):
        if option in words:
            assert (folder / words[words.index(option) + 1]).stat().st_size, option


def invoke(arguments: list[str], answer: str = "") -> Result:
    result = CliRunner().invoke(app.app, arguments, input=answer)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def small(words: list[str], model: str) -> list[str]:
    """The words with small values, after a check that the documented ones are allowed."""
    arguments = list(words)
    for i, (option, value) in enumerate(itertools.pairwise(words), 1):
        if option == "--model":
            assert all(catalogue.exists(name) for name in names(value)), value
            arguments[i] = model
        elif option == "--modes":
            for name in names(value):
                if name not in ("ALL", *PLACEHOLDERS):
                    check(Variant.parse(catalogue.default(), name, Placement()))
            arguments[i] = ",".join(LIGHT)
        elif option == "--mode":
            assert value in modes.modes()
        elif option in ("--lengths", "--words", "--batch", "--threads") and value in SMALL:
            assert option != "--lengths" or sizes(value, work.axis([catalogue.default()]))
            arguments[i] = SMALL[value]
        elif option == "--dataset" and value == "DIR":
            arguments[i] = "data/clips"
    return arguments


def stored(words: list[str], model: str) -> str:
    """The id of a run or an evaluation that the command can take."""
    placement, store = Placement("cpu", 1), manager.jobs().store
    variants = tuple(Variant.parse(model, mode, placement) for mode in LIGHT)
    if words[0] == "evaluate":
        evaluation = EvaluationSpec(variants, "data/clips")
        clips = dataset.of(evaluation).clips
        evaluation_id = store.create_run(evaluation, host.device())
        store.set_clips(evaluation_id, [ClipRecord(i, c.id, str(c.path), c.text) for i, c in enumerate(clips)])
        store.set_state(evaluation_id, "interrupted")
        return evaluation_id
    spec = RunSpec.grid([model], LIGHT, [0.2], placements=[placement], repeats=2, precision_target=1.0)
    if words[0] == "run":
        run_id = store.create_run(spec, host.device())
        store.set_state(run_id, "interrupted")
        return run_id
    run_id = manager.jobs().start(spec)
    manager.jobs().wait()
    return run_id


def finished(arguments: list[str], command: Command, folder: Path) -> None:
    """Run a command in a process of its own; it ends well."""
    environment = {**os.environ, **command.variables, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"


def serves(arguments: list[str], command: Command, folder: Path) -> None:
    """Start a command that serves on a free port until Ctrl-C; it answers on loopback."""
    port, log = free_port(), folder / "log"
    if "--tls" in arguments:
        certificate(folder)
    environment = {**os.environ, **command.variables, "PYTHONPATH": str(ROOT), "STREAMLIT_SERVER_HEADLESS": "true"}
    absolute = [str(folder / a) if a.endswith(".pem") else a for a in arguments]
    with log.open("wb") as output:
        process = subprocess.Popen([*absolute, str(port)], cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        until = time.monotonic() + WAIT_S
        while not (urls := re.findall(rf"https?://(?:localhost|127\.0\.0\.1):{port}\S*", log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        assert ("--lan" in arguments) == ("?token=" in urls[0])
        assert ("--tls" in arguments) == urls[0].startswith("https")
        with httpx.Client(follow_redirects=True, verify=False) as client:
            assert client.get(urls[0], timeout=WAIT_S).status_code == 200
    finally:
        process.terminate()
        process.wait(20)


def certificate(folder: Path) -> None:
    subject = ("-days", "1", "-subj", "/CN=localhost", "-newkey", "rsa:2048")
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", *subject, "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
