"""Child processes: their environment, their group, their pipes, and how their end is explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import PROMPT_S, alive, wait_for

from bench.core import child
from bench.core.paths import ROOT
from bench.core.specs import Placement
from bench.workers.client import Pool, WorkerError


def test_children_get_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in child.SECRETS:
        monkeypatch.setenv(name, "a secret that is long enough")
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    (tmp_path / "told.py").write_text(
        "import json, os\nprint(json.dumps({'secrets': [v for v in os.environ.values() if v.startswith('a secret')], "
        "'threads': os.environ['OPENBLAS_NUM_THREADS']}))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child.ask("told", timeout_s=60) == {"secrets": [], "threads": "1"}
    worker = Pool().start("The worker", Placement("cpu", 1))
    try:
        place = Path(f"/proc/{worker.pid}/environ")
        wait_for(lambda: b"EARBENCH_DATA" in place.read_bytes(), "the worker's environment")
        assert b"a secret" not in place.read_bytes()
    finally:
        worker.close()
    assert os.environ["EARBENCH_TOKEN"], "this process keeps them"


SCRIPTS = {
    "succeeds": ("print('first'); print('last')", "first\nlast\n", ""),
    "says why": (
        "import sys; sys.exit('a reason')",
        "",
        'its process ended with exit code 1. It said last: "a reason"',
    ),
    "is killed": (
        "import os; os.kill(os.getpid(), 9)",
        "",
        "its process was killed (SIGKILL): often because memory ran out.",
    ),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "", "its process crashed (SIGSEGV)."),
    "gets a nameless signal": ("import os; os.kill(os.getpid(), 40)", "", "its process crashed (signal 40)."),
    "takes too long for the processor": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
        "",
        "its process took too much processor time and was ended.",
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_outcome_of_a_child_that(name: str) -> None:
    script, out, problem = SCRIPTS[name]
    outcome = child.run([sys.executable, "-c", script], 60)
    assert (outcome.out, outcome.problem, outcome.timed_out) == (out, problem, False)


def test_a_program_that_does_not_exist_is_a_problem() -> None:
    assert child.run(["/no/such/program"], 5).problem == (
        "no process can be started for it: No such file or directory."
    )


def test_no_folder_for_temporary_files_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/no/such/folder"])
    problem = "no process can be started for it: No usable temporary directory found in ['/no/such/folder']."
    assert child.run(["true"], 5).problem == problem
    assert child.ask("bench.modes.probe", timeout_s=5) == {"error": problem}


def test_a_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    begun = time.monotonic()
    outcome = child.run(["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"], 1)
    assert outcome.timed_out and outcome.problem == "it took longer than 1 s and was ended."
    assert time.monotonic() - begun < 1 + PROMPT_S
    wait_for(lambda: not alive(int(pid_file.read_text())), "the end of the child's own child", PROMPT_S)


def test_a_child_without_a_group_of_its_own_is_in_this_one(tmp_path: Path) -> None:
    for own_group in (True, False):
        with (tmp_path / "log").open("w+b") as log, child.Child(["sleep", "600"], log, own_group=own_group) as process:
            assert (os.getpgid(process.pid) == process.pid) is own_group
            process.signal(signal.SIGTERM) if own_group else os.kill(process.pid, signal.SIGTERM)
            assert process.wait(PROMPT_S) == -signal.SIGTERM
            assert process.death("The sleeper").sentence == "The sleeper crashed (SIGTERM)."


def test_a_kill_is_put_down_to_memory_only_where_the_system_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log, child.Child(["sleep", "600"], log) as process:
        process.end()
        assert process.death("It") == ("killed", "It was killed (SIGKILL): often because memory ran out.")
        assert process.death("It", memory_ran_out=True).kind == "out of memory"


ECHO = """
import os, sys
requests, replies = map(int, sys.argv[1:])
with os.fdopen(requests, "rb") as lines:
    for line in lines:
        os.write(2, b"a note for the log\\n")
        os.write(replies, line.upper())
"""


def test_lines_go_both_ways_and_the_log_can_be_read_meanwhile(tmp_path: Path) -> None:
    requests, replies = child.Pipe(to_child=True), child.Pipe()
    command = [sys.executable, "-c", ECHO, str(requests.child_end), str(replies.child_end)]
    with (
        (tmp_path / "log").open("w+b") as log,
        child.Child(command, log, pipes=(requests, replies)) as process,
    ):
        for text in (b"one", b"x" * 300_000, b"three"):
            requests.write_line(text)
            lines: list[bytes] = []
            while not lines:
                lines += replies.read_lines() or []
            assert lines == [text.upper()]
            assert set(process.log_lines(9)) == {"a note for the log"}
        assert process.log_lines(2) == ["a note for the log"] * 2
        requests.close()  # which ends the child
        assert replies.read_lines() is None and process.wait(PROMPT_S) == 0
        replies.close()
        assert process.death().sentence == "its process ended with exit code 0."


def test_pipes_are_closed_if_the_child_cannot_start(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with (tmp_path / "log").open("w+b") as log, pytest.raises(OSError, match="No such file"):
        child.Child(["/no/such/program"], log, pipes=(child.Pipe(to_child=True), child.Pipe()))
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_worker_knows_its_requests_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    worker = Pool().start("The worker", Placement("cpu", 1))
    try:
        for name in ("__init__", "_timed", "nonsense"):
            with pytest.raises(
                WorkerError, match=f"Got the request '{name}'. Allowed: quit, build, start, open, visit"
            ):
                worker.ask(name, 60)
    finally:
        worker.close()


def test_a_hub_name_that_begins_with_a_dash_is_a_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "fetch", "--split=test", "--clips=1", "--", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "EARBENCH_DATA": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 2 and "Got “--help” as a data set" in done.stderr.replace("\n", " "), done.stderr
    assert json.dumps(done.stdout) == '""'
