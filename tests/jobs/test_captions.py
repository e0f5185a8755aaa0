"""Live captions: scripted hypotheses through the draft, and a clip through a real transcriber."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import LIGHT, wait_for

from bench.core import paths
from bench.core.lease import Refused
from bench.core.records import Word
from bench.core.specs import SAMPLE_RATE_HZ, Placement, RunSpec, Variant
from bench.core.store import Store, StoreError
from bench.families.family import ModelError
from bench.jobs.captions import CONTEXT_S, MARGIN_S, STEP_S, WINDOW_S, Captions, Draft
from bench.jobs.manager import Jobs
from bench.sound import audio
from bench.sound.audio import Array
from bench.sound.microphone import Level, MicrophoneError

SENTENCE = [Word(text, i * 0.6, i * 0.6 + 0.5, 0.9) for i, text in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")]


def said(words: list[Word]) -> str:
    return "".join(w.text for w in words)


def heard(begin_s: float, end_s: float) -> list[Word]:
    """What a perfect model hears of the sentence in a window, in the window's time; a word cut in two is a fragment."""
    found = []
    for w in SENTENCE:
        if w.end_s > begin_s and w.begin_s < end_s:
            whole = w.begin_s >= begin_s and w.end_s <= end_s
            text = w.text if whole else w.text.lower()
            found.append(Word(text, max(w.begin_s, begin_s) - begin_s, min(w.end_s, end_s) - begin_s, 0.9))
    return found


def step(draft: Draft, now_s: float) -> tuple[float, float]:
    window = draft.window(now_s)
    draft.add(heard(*window), *window)
    return window


def test_two_hypotheses_must_agree_and_the_newest_second_stays_open() -> None:
    draft = Draft()
    step(draft, 3.0)
    assert (said(draft.committed), said(draft.tentative)) == ("", "ABCDE")
    step(draft, 3.5)
    assert MARGIN_S == 1.0 and said(draft.committed) == "ABCD"  # D ends at 2.3 s, E at 2.9 s
    assert said(draft.tentative) == "EF"


def test_a_word_that_changed_holds_back_what_follows_it() -> None:
    draft = Draft()
    for hypothesis in ("one too three", "one two three"):
        words = [Word(text, i, i + 0.5, 1.0) for i, text in enumerate(hypothesis.split())]
        draft.add(words, 0.0, 6.0)
    assert [w.text for w in draft.committed] == ["one"] and [w.text for w in draft.tentative] == ["two", "three"]


@pytest.mark.parametrize("pause_s", [0.3, 0.5, 1.1, 2.0, 5.0])
def test_a_whole_speech_has_every_word_once(pause_s: float) -> None:
    draft, now_s, before = Draft(), 0.0, 0
    while now_s < SENTENCE[-1].end_s + 2:
        now_s += pause_s
        begin_s, end_s = step(draft, now_s)
        assert end_s - begin_s <= WINDOW_S
        assert len(draft.committed) >= before  # what is committed never changes
        before = len(draft.committed)
    draft.finish()
    assert said(draft.committed) == said(SENTENCE) and not draft.tentative and draft.skipped_s == 0
    assert [w.begin_s for w in draft.committed] == pytest.approx([w.begin_s for w in SENTENCE])


def test_windows_begin_where_a_committed_word_ends_and_stay_short() -> None:
    draft = Draft()
    for i in range(1, 24):
        begin_s, end_s = step(draft, i * 0.5)
        if begin_s:
            assert min(abs(begin_s - w.end_s) for w in draft.committed) < 1e-9
            assert end_s - begin_s < MARGIN_S + CONTEXT_S + 3


def test_silence_is_not_heard_again_and_again() -> None:
    draft = Draft()
    for i in range(1, 40):
        begin_s, end_s = draft.window(i * STEP_S)
        assert end_s - begin_s <= MARGIN_S + CONTEXT_S + STEP_S
        draft.add([], begin_s, end_s)
    assert draft.skipped_s == 0


def test_who_is_too_slow_skips_and_says_how_much() -> None:
    draft = Draft()
    step(draft, 4.0)
    begin_s, end_s = step(draft, 20.0)
    assert (begin_s, end_s) == (12.0, 20.0)
    assert draft.skipped_s == pytest.approx(8.0)  # from 4 to 12 s
    assert said(draft.committed).startswith("ABCDEF")  # heard once, never again: better than lost


def test_hypotheses_that_never_agree_are_let_go() -> None:
    draft = Draft()
    for i in range(1, 40):
        begin_s, end_s = draft.window(i * 0.5)
        assert end_s - begin_s <= WINDOW_S
        draft.add([Word(f"{i}", 0.1, 0.5, 0.1)], begin_s, end_s)
    assert draft.committed


class Clip:
    """A recorder that plays samples as a microphone would, faster than real time."""

    def __init__(self, samples: Array, *, trouble: str = "", endless: bool = False) -> None:
        self.samples, self.trouble, self.endless = samples, trouble, endless
        self.at, self.stopped = 0, False
        self.level, self.rates, self.overflows = Level(-6.0, -20.0), (48_000, SAMPLE_RATE_HZ), 2

    @property
    def running(self) -> bool:
        return not self.stopped and (self.endless or self.at < len(self.samples))

    @property
    def elapsed_s(self) -> float:
        return self.at / SAMPLE_RATE_HZ

    def read(self, timeout_s: float = 0.0) -> Array:
        if self.stopped:
            return np.zeros(0, np.float32)
        if timeout_s:
            time.sleep(0.01)
        block = self.samples[self.at : self.at + 3200]
        self.at += len(block)
        if not len(block) and self.endless:
            self.at = 0
        if not len(block) and self.trouble:
            raise MicrophoneError(self.trouble)
        return block

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def manager(data_folder: Path) -> Iterator[Jobs]:
    found = Jobs(Store(data_folder / "earbench.db"))
    yield found
    if found.captions:
        found.captions.end("")
    found.transcriber.close()
    found.cancel()
    assert found.wait(30)


@pytest.fixture(scope="session")
def clip() -> Array:
    return audio.decode(paths.SPEECH_CLIP).samples


def variants(model: Path) -> list[Variant]:
    return [Variant(str(model), mode, Placement("cpu", 1)) for mode in LIGHT]


def test_a_clip_by_two_variants(manager: Jobs, tiny_model: Path, clip: Array) -> None:
    session = Captions(manager.transcriber, variants(tiny_model), 3, lambda device: Clip(clip) if device == 3 else None)  # type: ignore[arg-type, return-value]
    assert session.live
    wait_for(lambda: not session.live, "the end of the clip")
    s = session.snapshot()
    assert "10 minutes" in s.message and s.overflows == 2 and s.elapsed_s == pytest.approx(len(clip) / SAMPLE_RATE_HZ)
    for c in s.captions:
        assert c.committed and not c.tentative and not c.error and c.pass_s and c.lag_s is None
        assert all(0 <= w.begin_s <= w.end_s <= s.elapsed_s + 0.1 for w in c.committed)
    t = session.transcript()
    assert [x.variant for x in t.texts] == variants(tiny_model)
    assert all(x.transcription and x.transcription.text and x.seconds is None for x in t.texts)


def test_stop_keeps_what_was_said(manager: Jobs, tiny_model: Path, clip: Array) -> None:
    session = Captions(manager.transcriber, variants(tiny_model), None, lambda _: Clip(clip, endless=True))
    wait_for(lambda: all(c.pass_s for c in session.snapshot().captions), "a pass of both")
    assert all(c.lag_s is not None for c in session.snapshot().captions)
    session.stop()
    wait_for(lambda: not session.live, "the end after stop")
    assert session.snapshot().message == "" and all(c.committed for c in session.snapshot().captions)


def test_a_microphone_that_fails_is_a_sentence(manager: Jobs, tiny_model: Path, clip: Array) -> None:
    session = Captions(manager.transcriber, variants(tiny_model)[:1], None, lambda _: Clip(clip, trouble="Unplugged."))
    wait_for(lambda: not session.live, "the end")
    assert session.snapshot().message == "Unplugged."


def test_a_variant_that_fails_leaves_the_others(manager: Jobs, tiny_model: Path, clip: Array) -> None:
    both = [Variant("no-such-model", LIGHT[0], Placement("cpu", 1)), *variants(tiny_model)[:1]]
    session = Captions(manager.transcriber, both, None, lambda _: Clip(clip))
    wait_for(lambda: not session.live, "the end")
    bad, good = session.snapshot().captions
    assert "no-such-model" in bad.error and good.committed and not good.error


def test_a_benchmark_ends_the_captions(manager: Jobs, tiny_model: Path, clip: Array) -> None:
    session = manager.captions = Captions(
        manager.transcriber, variants(tiny_model)[:1], None, lambda _: Clip(clip, endless=True)
    )
    wait_for(lambda: session.snapshot().captions[0].pass_s, "a pass")
    manager.start(
        RunSpec.grid(
            [str(tiny_model)], LIGHT[:1], [0.5], placements=[Placement("cpu", 1)], repeats=3, precision_target=1.0
        )
    )
    assert not session.live and "measurement began" in session.snapshot().message
    late = Captions(manager.transcriber, variants(tiny_model)[:1], None, lambda _: Clip(clip))
    wait_for(lambda: not late.live, "its refusal")
    assert "under way" in late.snapshot().message
    with pytest.raises(Refused):
        manager.transcriber.transcribe(clip, variants(tiny_model))


def test_a_benchmark_that_can_not_start_leaves_the_captions_alone(
    manager: Jobs, tiny_model: Path, clip: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = RunSpec.grid(
        [str(tiny_model)], LIGHT[:1], [0.5], placements=[Placement("cpu", 1)], repeats=3, precision_target=1.0
    )
    one = variants(tiny_model)[:1]
    session = manager.caption(lambda: Captions(manager.transcriber, one, None, lambda _: Clip(clip, endless=True)))
    wait_for(lambda: session.snapshot().captions[0].pass_s, "a pass")
    with pytest.raises(Refused, match="no run nonsense"):
        manager.resume("nonsense")
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise StoreError("The disk is full.")

        patched.setattr(manager.store, "create_run", full)
        with pytest.raises(StoreError):
            manager.start(wanted)
    with pytest.raises(ModelError):
        manager.start(RunSpec.grid(["no-such-model"], LIGHT[:1], [0.5], placements=[Placement("cpu", 1)]))
    assert session.live and not session.snapshot().message
    assert manager.start(wanted) and not session.live


def test_two_browsers_that_start_captions_at_once_see_the_same(manager: Jobs, tiny_model: Path, clip: Array) -> None:
    made: list[Captions] = []

    def make() -> Captions:
        time.sleep(0.1)  # the other one comes meanwhile
        made.append(Captions(manager.transcriber, variants(tiny_model)[:1], None, lambda _: Clip(clip, endless=True)))
        return made[-1]

    with ThreadPoolExecutor() as threads:
        found = [f.result(30) for f in [threads.submit(manager.caption, make) for _ in range(4)]]
    assert len(made) == 1 and all(f is made[0] for f in found)
    made[0].end("")
    assert manager.caption(make) is made[1]
