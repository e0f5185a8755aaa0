"""Blocks: variants that are open at the same time, as many as fit into memory; the rest waits for later blocks.

Runs and evaluations share this scheduler. The processes of a block start and import side by side; they open one at a
time, with the free memory checked before each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from bench.core.records import Artefact, Evaluation, Failure, Opening, Run
from bench.core.store import Store
from bench.device import cpu, readings
from bench.workers import start
from bench.workers.client import Pool, Worker, WorkerError
from bench.workers.outcomes import Attempts
from bench.workers.start import Limits, Stage, Started


class Block:
    """The variants that were tried together, by position: an open, paused worker or a failure."""

    def __init__(self) -> None:
        """Nothing is open yet."""
        self.outcomes: dict[int, Worker | Failure] = {}

    def close(self) -> None:
        """Close all workers."""
        for outcome in self.outcomes.values():
            if not isinstance(outcome, Failure):
                outcome.close()

    def fail(self, position: int, failure: Failure) -> None:
        """Close the worker of a variant that failed while it was open; it is in no later block."""
        worker = self.outcomes[position]
        self.outcomes[position] = failure
        if not isinstance(worker, Failure):
            worker.close()

    def is_open(self, position: int | None) -> bool:
        """Return whether the variant has a worker."""
        return position in self.outcomes and not isinstance(self.outcomes[position], Failure)

    @property
    def open_count(self) -> int:
        """Number of workers."""
        return sum(map(self.is_open, self.outcomes))


class Blocks:
    """Opens variants block by block, in order, until none is left.

    `need_bytes` is the memory for opening and running a variant, `reserve_bytes` the part of it that only the first
    pass allocates. `shared` is in every block until it fails, so a block needs another variant beside it; a variant
    that doesn't fit even then has failed.
    """

    def __init__(
        self,
        run: Run | Evaluation,
        store: Store,
        attempt: Attempts,
        pool: Pool,
        limits: Limits,
        stage: Stage,
        need_bytes: Callable[[int], int],
        reserve_bytes: Callable[[int], int],
    ) -> None:
        """See the class. No process is started here."""
        self._run_id, self._variants, self._store = run.id, run.spec.variants, store
        self._attempt, self._pool, self._limits, self._stage = attempt, pool, limits, stage
        self._need_bytes, self._reserve_bytes = need_bytes, reserve_bytes
        self._artefacts: Mapping[int, Artefact] = {}
        self._shared: int | None = None
        self._side_by_side = True  # until memory runs out while several processes start
        self.waiting: list[int] = []  # positions for later blocks

    def plan(self, positions: Sequence[int], artefacts: Mapping[int, Artefact], shared: int | None = None) -> None:
        """Set what is to be opened, in this order, `shared` before all others."""
        self.waiting = [*([] if shared is None else [shared]), *(p for p in positions if p != shared)]
        self._artefacts, self._shared = artefacts, shared

    @contextmanager
    def next(self) -> Iterator[Block]:
        """Open the next block and close its workers at the end. Raises Cancelled."""
        block = Block()
        try:
            if self._shared is not None and self._shared not in self.waiting:
                self.waiting.insert(0, self._shared)
            self._fill(block)
            yield block
        finally:
            block.close()
        if not block.is_open(self._shared):
            self._shared = None

    # --- filling a block

    def _fill(self, block: Block) -> None:
        """Open waves of variants until no other one fits."""
        reserved_bytes = 0
        while self.waiting:
            wave = self._wave(reserved_bytes)
            if not wave:
                if block.open_count > block.is_open(self._shared):
                    return
                self._refuse(block, self.waiting[0])
                continue
            started = self._start(block, wave)
            try:
                for position in list(started):
                    if position != wave[0] and not self._fits(position, started[position], reserved_bytes):
                        break  # less is free than was planned with: plan anew
                    self._settle(block, position, self._open(position, started.pop(position)))
                    if block.is_open(position):
                        reserved_bytes += self._reserve_bytes(position)
            finally:
                _close(started.values())

    def _wave(self, reserved_bytes: int) -> list[int]:
        """Return the next variants that fit into the free memory together, in order."""
        wave: list[int] = []
        free_bytes = cpu.available_memory_bytes() - reserved_bytes
        for position in self.waiting:
            free_bytes -= self._need_bytes(position)
            if free_bytes < 0 or (wave and not self._side_by_side):
                break
            wave.append(position)
        return wave

    def _start(self, block: Block, wave: Sequence[int]) -> dict[int, Started]:
        """Start the variants' processes side by side, no more at once than there are cores, and wait for all.

        If memory runs out meanwhile, it is unclear whose fault that is: all are closed and left waiting, and from then
        on processes start one by one.
        """
        self._stage(f"starting {len(wave)} processes side by side" if len(wave) > 1 else "starting a process")
        started: dict[int, Started] = {}

        def begin(position: int) -> None:
            started[position] = start.start(
                self._variants[position], self._artefacts[position], self._pool, self._limits
            )

        try:
            with ThreadPoolExecutor(max(1, cpu.default_threads())) as threads:
                futures = {p: threads.submit(begin, p) for p in wave}
            if len(wave) > 1 and any(_out_of_memory(future.exception()) for future in futures.values()):
                self._side_by_side = False
                _close(started.values())
                return {}
            for position, future in futures.items():
                failure = self._attempt(position, "open", future.result)
                if failure:
                    self._settle(block, position, failure)
        except BaseException:  # also of `submit`, which raises RuntimeError if no thread can start
            _close(list(started.values()))
            raise
        return {p: started[p] for p in wave if p in started}

    def _fits(self, position: int, started: Started, reserved_bytes: int) -> bool:
        """Return whether the free memory suffices; what the started process takes already is part of its need."""
        need_bytes = self._need_bytes(position)
        present_bytes = min(need_bytes, readings.memory(started.worker.pid)[0] or 0)
        return cpu.available_memory_bytes() - reserved_bytes >= need_bytes - present_bytes

    def _open(self, position: int, started: Started) -> Worker | Failure:
        """Open a started variant and store its opening."""
        variant, artefact = self._variants[position], self._artefacts[position]
        call = partial(start.open_started, started, variant, artefact, self._limits, self._stage)
        outcome: tuple[Worker, Opening] | Failure = self._attempt(position, "open", call)
        if isinstance(outcome, Failure):
            return outcome
        worker, opening = outcome
        try:
            self._store.set_variant(self._run_id, position, opening=opening)
        except BaseException:
            worker.close()
            raise
        return worker

    def _refuse(self, block: Block, position: int) -> None:
        """Note that a variant doesn't fit into memory."""

        def refuse() -> Worker:
            raise WorkerError(
                "out of memory",
                f"{self._variants[position].spelled} needs about {self._need_bytes(position) / 1e9:.1f} GB of memory, "
                "more than is free. Close other programs, or choose a smaller model.",
            )

        self._settle(block, position, self._attempt(position, "open", refuse))

    def _settle(self, block: Block, position: int, outcome: Worker | Failure) -> None:
        self.waiting.remove(position)
        block.outcomes[position] = outcome


def _out_of_memory(e: BaseException | None) -> bool:
    return isinstance(e, WorkerError) and e.kind == "out of memory"


def _close(started: Iterable[Started]) -> None:
    """Close workers that were started and not opened."""
    for one in started:
        one.worker.close()
