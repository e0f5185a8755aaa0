"""`kill -9` of a worker, of the server and of both at random moments: nothing that was committed is ever lost.

The server is `python -m bench run` in a session of its own, which hosts the same job manager as the dashboard. By
default each kill is tested twice, in one run that lives on through all of them. `make soak` tests each 20 times (or
EARBENCH_SOAK times), every time on a run of its own. EARBENCH_SEED draws the moments of a failure again.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from conftest import LIGHT, PROMPT_S, alive, own_cache, wait_for

from bench.core import paths
from bench.core.records import LIVE_STATES, Failure, Group, Run
from bench.core.store import Store
from bench.jobs.manager import Jobs

TIMES = int(os.environ.get("EARBENCH_SOAK", "20"))
SEED = int(os.environ.get("EARBENCH_SEED", time.time_ns() % 2**32))
TORCH = ("torch-fp32", "torch-int8-dynamic")
LENGTHS_S = (0.5, 1.0, 1.5)
REPEATS = 3
SHORTEST_VISIT_S = 0.3
STARTING_S = {LIGHT: 5.0, TORCH: 10.0}  # about how long a server takes to its first visit
LIFE_S = 200.0
MISSES = 3


@pytest.mark.timeout(600)
def test_two_kills_of_each_in_one_run(tiny_model: Path, data_folder: Path) -> None:
    own_cache(data_folder)
    Survival(tiny_model, data_folder, "one run", LIGHT).carry(
        [["worker", "server"], ["both"], ["server"], ["both"], ["worker"]]
    )


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(TIMES))
@pytest.mark.parametrize("target", ["worker", "server", "both"])
def test_kill(tiny_model: Path, data_folder: Path, target: str, number: int) -> None:
    own_cache(data_folder, empty=number % 4 == 0)  # so that artefacts are built, and builders killed
    Survival(tiny_model, data_folder, f"{target} {number}", TORCH).carry([[target]])


class Survival:
    """One run that is carried to its end through kills, and what was seen of it on the way."""

    def __init__(self, model: Path, folder: Path, name: str, modes: tuple[str, ...]) -> None:
        print(f"{name}: EARBENCH_SEED={SEED}")
        self.modes = modes
        self.model, self.folder, self.random = model, folder, random.Random(f"{SEED} {name}")
        self.log = folder.parent / "server.log"
        self.run_id: str | None = None
        self.ended: set[str] = set()
        self.done: dict[int, Group] = {}  # groups that were finished when the server was killed
        self.undone: set[int] = set()

    def carry(self, lives: Sequence[Sequence[str]]) -> None:
        """A life begins with the start of a server; the kills of each life are given. Ends with the run done."""
        left, missed = [list(kills) for kills in lives], 0
        while left or self.run_id:
            with self._server() as server:
                late = self._live(server, left.pop(0) if left else [])
            if late:  # the run was quicker: a new one has to take them
                missed += 1
                assert missed <= MISSES, f"{late} came too late {missed} times"
                left.insert(0, late)

    def _live(self, server: subprocess.Popen[bytes], kills: Sequence[str]) -> list[str]:
        """One life; returns the kills that came too late to change anything."""
        wait_for(lambda: server.poll() is not None or self._begun(), "the run in the store", LIFE_S)
        assert self.run_id, self.log.read_text()
        known = len(self._failures())
        for i, target in enumerate(kills):
            self._wait_for_a_random_moment(server, variants=1 if i else len(self.modes))
            run, before = self._read()
            if run.state == "done":
                self._end(server)
                return list(kills[i:])
            print(f"{target}: {run.state}, {sum(len(g.visits) for g in before)} visits")
            if target == "worker":
                self._kill_a_worker(server)
                continue
            victims = ["server"] if target == "server" else self.random.sample(["worker", "server"], 2)
            for victim in victims:
                if victim == "worker":
                    self._kill_a_worker(server)
                else:
                    server.kill()
            server.wait(10)
            if self._read()[0].state == "done":
                self._end(server)
                return list(kills[i:])
            self._check_death(before)
            return []
        noted = self._end(server)
        return [] if noted > known else [k for k in kills if k == "worker"]

    def _wait_for_a_random_moment(self, server: subprocess.Popen[bytes], variants: int) -> None:
        """Within the start, or after any visit but the last one, and before the one after it can be over."""
        groups = self._read()[1]
        ahead = (len(LENGTHS_S) - sum(g.state == "done" for g in groups)) * variants * REPEATS
        wanted = sum(len(g.visits) for g in groups) + self.random.randrange(max(ahead, 1))
        latest_s = self.random.uniform(0, STARTING_S[self.modes]) if self.random.random() < 0.3 else LIFE_S
        deadline = time.monotonic() + latest_s
        while server.poll() is None and time.monotonic() < deadline and self._count_visits() < wanted:
            time.sleep(0.005)
        moment = time.monotonic() + self.random.uniform(0, SHORTEST_VISIT_S)
        wait_for(lambda: time.monotonic() >= moment, "the moment")

    # --- what must hold

    def _check_death(self, before: Sequence[Group]) -> None:
        """After the server's end: nobody is left, nothing is lost, the run is marked."""
        self._check_nobody_is_left()
        with closing(sqlite3.connect(paths.database())) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        run, groups = self._read()
        assert run.state in LIVE_STATES
        self._check_nothing_is_lost(before, groups)
        self.done = {g.id: g for g in groups if g.state == "done"}
        self.undone |= {g.id for g in groups if g.state == "running"}
        manager = Jobs(Store(paths.database()))
        marked, _ = self._read()
        assert (marked.state, manager.holder()) == ("interrupted", None)
        assert marked.message == "The program ended while this run was under way. What was measured is kept."

    def _end(self, server: subprocess.Popen[bytes]) -> int:
        """Wait for the run's end and look at all of it; returns how many failures it noted."""
        before = self._read()[1]
        code = server.wait(LIFE_S)
        (run, groups), failures = self._read(), self._failures()
        assert run.state == "done" and code in (0, -signal.SIGKILL), (
            f"{run.state}: {run.message}\n{self.log.read_text()}"
        )
        self._check_nobody_is_left()
        self._check_nothing_is_lost(before, groups)
        for g in groups:
            assert self.done.get(g.id, g) == g, "finished groups are kept as they were"
            assert g.state == ("superseded" if g.id in self.undone else "done")
        for f in failures:
            assert f.kind == "killed" and "was killed (SIGKILL)" in f.message and f.variant is not None, f
        for variant in set(range(len(self.modes))) - {f.variant for f in failures}:
            for length_s in LENGTHS_S:
                found = [g for g in groups if g.size == length_s and g.state == "done" and variant in g.variants]
                rounds = [len({v.round for v in g.visits if v.variant == variant}) for g in found]
                assert max(rounds, default=0) >= REPEATS, f"variant {variant} at {length_s} s: {rounds} rounds"
        assert run.message in (None, "1 of 2 variants failed; what could be measured is kept.")
        assert not list(paths.logs().iterdir()), "the logs of dead servers are swept"
        leftovers = [p for p in paths.cache().glob("artefacts/.*") if p.suffix != ".verified"]
        assert not leftovers, "what dead builders left is swept"
        self.ended.add(run.id)
        self.run_id, self.done, self.undone = None, {}, set()
        return len(failures)

    def _check_nobody_is_left(self) -> None:
        wait_for(lambda: not processes(self.folder), "the end of every process", PROMPT_S)

    def _check_nothing_is_lost(self, before: Sequence[Group], after: Sequence[Group]) -> None:
        lost = {(g.id, v) for g in before for v in g.visits} - {(g.id, v) for g in after for v in g.visits}
        assert not lost, f"committed visits are gone: {lost}"

    # --- the store, each time through a new connection, so that a killed one's journal is taken up

    def _begun(self) -> bool:
        """Whether this life's server has made its run, or taken it up."""
        if self.run_id:
            return self._read()[0].state in LIVE_STATES
        if paths.database().exists():
            found = {r.id for r in Store(paths.database()).runs()} - self.ended
            self.run_id = found.pop() if found else None
        return self.run_id is not None

    def _read(self) -> tuple[Run, list[Group]]:
        store = Store(paths.database())
        assert self.run_id
        run = store.run(self.run_id)
        assert run
        return run, store.groups(self.run_id, superseded=True)

    def _failures(self) -> list[Failure]:
        assert self.run_id
        return Store(paths.database()).failures(self.run_id)

    def _count_visits(self) -> int:
        with closing(sqlite3.connect(paths.database())) as db:
            found = db.execute(
                "SELECT count(*) FROM visit v JOIN measured_group g ON g.id = v.group_id WHERE g.run_id = ?",
                (self.run_id,),
            )
            return int(found.fetchone()[0])

    # --- the server and its workers

    @contextmanager
    def _server(self) -> Iterator[subprocess.Popen[bytes]]:
        options = {
            "--model": self.model,
            "--modes": ",".join(self.modes),
            "--lengths": ",".join(map(str, LENGTHS_S)),
            "--repeats": REPEATS,
            "--target": 1,
            "--threads": 1,
        }
        if self.run_id:
            options = {"--resume": self.run_id}
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "bench", "run", *(str(x) for pair in options.items() for x in pair)],
                cwd=paths.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield server
        finally:
            for pid in processes(self.folder):  # only after a failure
                os.kill(pid, signal.SIGKILL)
            server.wait(10)

    def _kill_a_worker(self, server: subprocess.Popen[bytes]) -> None:
        """Any that is there, once one is; nobody where a dead server has left none."""

        def workers() -> list[int]:
            return [pid for pid in processes(self.folder) if pid != server.pid]

        wait_for(lambda: server.poll() is not None or workers(), "a worker", LIFE_S)
        if found := workers():
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(found), signal.SIGKILL)


def processes(folder: Path) -> list[int]:
    """Every process of a data folder that runs or is stopped, by what its environment says."""
    mark, found = f"EARBENCH_DATA={folder}\0".encode(), []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append(int(entry.name))
    return found
