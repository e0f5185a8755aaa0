"""The training of the demo model, on tiny stand-ins; and the demo model and the clips as they are shipped."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from bench.core.paths import SHIPPED
from bench.families.catalogue import find
from training import accents, clips, diphones, voices, words
from training.batches import SHAPES, Batches, paced, resampled
from training.corpus import PROMPTS, Corpus, Utterance, _prompts, load, make
from training.measure import digit_strings, transcribe, word_errors

CLIPS, DEMO = SHIPPED / "clips", SHIPPED / "models" / "demo"
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
speaks = pytest.mark.skipif(bool(voices.missing()), reason=voices.missing() or "both programs are here")


@pytest.fixture
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    texts = ("go", "turn on the light", "nine", "stop then start")
    kinds = (("train", "espeak:en"), ("train", "flite:slt"), ("digits", "ann"), ("digits-held-out", "zoe"))
    utterances, start = [], 0
    for i in range(40):
        part, voice = kinds[i % 4]
        length = int(rng.integers(5000, 20000))
        utterances.append(Utterance(part, voice, texts[2] if "digits" in part else texts[i % 3], start, length))
        start += length
    return Corpus(rng.integers(-9000, 9000, start, dtype=np.int16), tuple(utterances))


def test_sentences_are_seeded_and_training_never_holds_one_of_evaluation() -> None:
    def some(seed: int, part: words.Part) -> list[str]:
        return list(itertools.islice(words.sentences(seed, part), 2000))

    assert some(1, "train") == some(1, "train") != some(2, "train")
    assert not set(some(1, "train")) & set(some(3, "evaluate"))
    assert {word for text in some(1, "train") for word in text.split()} == set(words.vocabulary())
    assert all(1 <= len(text.split()) <= 10 for text in some(1, "train"))


def test_seen_and_unseen_voices_share_none() -> None:
    assert not set(voices.SEEN) & set(voices.UNSEEN)


def test_augmentation_keeps_length_and_its_seed_decides() -> None:
    import torch

    from training.augment import harder

    audio = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 32000)).astype(np.float32))
    throats = torch.tensor([1.0, 0.7, 1.4, 1.0, 1.0, 0.9])
    for seed in range(10):
        made = harder(audio, throats, (seed, 1))
        assert made.shape == audio.shape and made.dtype == torch.float32 and bool(made.isfinite().all())
        assert made.mean(1).abs().max() < 1e-4 and (made.std(1) - 1).abs().max() < 1e-2
    assert harder(audio, throats, (3, 1)).equal(harder(audio, throats, (3, 1)))
    assert not harder(audio, throats, (3, 1)).equal(harder(audio, throats, (4, 1)))


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_another_throat_moves_a_formant_and_keeps_the_pitch(factor: float) -> None:
    import torch

    from training.augment import formants_moved

    t = np.arange(voices.RATE_HZ) / voices.RATE_HZ
    pulses = sum(np.cos(2 * np.pi * 100 * k * t) for k in range(1, 70))  # a throat without a formant, at 100 Hz
    bell = np.exp(-0.5 * ((np.fft.rfftfreq(len(t), 1 / voices.RATE_HZ) - 2000) / 300) ** 2) + 0.01
    vowel = np.fft.irfft(np.fft.rfft(pulses) * bell)  # with one at 2 kHz
    made = formants_moved(torch.from_numpy(vowel[None].astype(np.float32)), torch.tensor([factor]))[0].numpy()
    loud = np.abs(np.fft.rfft(made[: len(t)]))
    assert loud.argmax() % 100 == 0, "harmonics stay where they were"
    assert loud.argmax() == pytest.approx(2000 * factor, abs=150)


def test_the_equalizer_is_flat_between_like_knots_and_bands_end_where_they_say() -> None:
    import torch

    from training.augment import bands, equalizer

    gains = equalizer(50, 801, np.random.default_rng(0), torch.device("cpu"))  # 10 Hz a bin
    decibels = 20 * gains.log10()
    middle = (decibels[:, 220] + decibels[:, 320]) / 2  # knots at 2.2 and 3.2 kHz
    assert gains.shape == (50, 801) and bool(torch.isclose(decibels[:, 270], middle, atol=1e-3).all())
    open_ended = bands(400, 801, np.random.default_rng(0), torch.device("cpu"))
    assert open_ended.unique().tolist() == pytest.approx([0.0, 0.05, 1.0])
    ended = open_ended[:, -1] == 0
    assert 0.3 < ended.float().mean() < 0.5 and bool((open_ended[ended][:, :336] > 0).all())


def test_an_utterance_grows_shorter_by_the_factor_and_may_bend() -> None:
    audio = np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    assert len(resampled(audio, 1.25)) == pytest.approx(len(audio) / 1.25, abs=1)
    slope = np.arange(32000, dtype=np.float32)  # its values are the times that were read
    for seed in range(20):
        bent = resampled(slope, 0.9, np.random.default_rng(seed))
        assert len(bent) == len(resampled(slope, 0.9)) and (np.diff(bent) >= 0).all(), "time never runs backwards"
        assert np.diff(bent).max() < 0.9 * 1.31
        assert (bent[0], bent[-1]) == pytest.approx((0, resampled(slope, 0.9)[-1])), "both ends are there"


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_another_pace_keeps_the_pitch(factor: float) -> None:
    t = np.arange(voices.RATE_HZ) / voices.RATE_HZ
    tone = (np.sin(2 * np.pi * 160 * t) + 0.5 * np.sin(2 * np.pi * 480 * t)).astype(np.float32)
    made = paced(tone, factor)
    assert len(made) == pytest.approx(len(tone) / factor, abs=1) and made.dtype == np.float32
    middle = made[800:8800]  # half a second: 2 Hz a bin
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 160
    assert middle.std() == pytest.approx(tone.std(), rel=0.05), "the windows fit on: they don't cancel each other"


def test_accents_are_of_other_languages_and_of_no_held_out_voice() -> None:
    jobs = accents.jobs(400, 1)
    assert jobs == accents.jobs(400, 1) != accents.jobs(400, 2)
    used = {voice for _, voice, _, _ in jobs}
    assert len(used) == 300 and not used & set(voices.SEEN + voices.UNSEEN)
    assert not {voice.split("+")[1] for voice in used} & {voice.split("+")[1] for voice in voices.UNSEEN}
    assert {word for _, _, text, _ in jobs for word in text.split()} == set(words.DIGITS)
    several = {accents.phonemes("three", Random(seed)) for seed in range(40)}
    assert len(several) > 3 and all(text.startswith("[[") and text.endswith("]]") for text in several)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
@pytest.mark.parametrize("language", accents.LANGUAGES)
def test_every_language_knows_every_phoneme_of_the_accents(language: str) -> None:
    ways = [way for pronunciations in accents.SAID.values() for way in dict.fromkeys(pronunciations)]
    command = ["espeak-ng", "-v", language, "-q", "-x", " ".join(f"[[{way}]]" for way in ways)]
    phonemes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(phonemes) == len(ways)
    for way, sounds in zip(ways, phonemes, strict=True):  # one that is not known is left out, with all behind it
        assert len(re.sub(r"\W", "", sounds)) >= len(re.sub(r"\W", "", way)) - 1, (way, sounds)


def test_diphones_say_digits_with_the_sounds_of_their_language() -> None:
    assert diphones.sounds_of("z'i:ro") == [("z", False), ("i:", True), ("r", False), ("o", False)]
    jobs = diphones.jobs(270, 1)
    assert jobs == diphones.jobs(270, 1) != diphones.jobs(270, 2)
    assert {voice for _, voice, _, _ in jobs} == {f"festival:{name}" for name in (*diphones.VOICES, diphones.ENGLISH)}
    assert all(words.part(text) == "train" for _, voice, text, _ in jobs if voice.endswith(diphones.ENGLISH))
    for seed in range(20):
        phones = [piece.split()[0] for piece in diphones.segments("three", "pc_diphone", Random(seed))[1:].split(" (")]
        assert "T" not in phones and not phones[-2].endswith(":"), "Italian has neither th nor long vowels"
    assert diphones.segments("five", "suo_fi_lj_diphone", Random(0)).count("(e ") == 1, "it can't end in f"


@pytest.mark.skipif(bool(diphones.missing()), reason=diphones.missing() or "Festival and its voices are here")
@pytest.mark.parametrize("name", diphones.VOICES)
def test_every_diphone_voice_has_the_diphones_that_it_is_asked_for(name: str) -> None:
    digits = " ".join(words.DIGITS)
    commands = [f"(voice_{name})"]
    for seed in range(12):
        commands.append(f"(utt.synth (Utterance Segments ({diphones.segments(digits, name, Random(seed))})))")
    festival = subprocess.run(
        ["festival", "--pipe"], input="\n".join(commands), capture_output=True, text=True, check=True
    )
    assert "default diphone" not in festival.stdout + festival.stderr and "ERROR" not in festival.stderr


def test_a_batch_depends_on_seed_and_step_alone(corpus: Corpus) -> None:
    batches = Batches(corpus, seed=1)
    later = batches.at(900)
    for step in (0, 7, 900):
        batch, again = batches.at(step), Batches(corpus, seed=1).at(step)
        assert batch.texts == again.texts and np.array_equal(batch.audio, again.audio)
        rows, samples = batch.audio.shape
        assert (samples / voices.RATE_HZ, rows) in SHAPES
        assert batch.throats.shape == (rows,) and batch.seed == (1, step)
        assert 0 < np.abs(batch.audio).max() <= 1
    assert np.array_equal(later.audio, batches.at(900).audio)
    assert not np.array_equal(batches.at(1).audio, Batches(corpus, seed=2).at(1).audio)


def test_batches_hold_nobody_who_is_held_out(corpus: Corpus) -> None:
    assert {voice for _, voice in Batches(corpus, 1).by_voice} == {"espeak:en", "flite:slt", "ann"}
    assert {voice for _, voice in Batches(corpus, 1, without="ann").by_voice} == {"espeak:en", "flite:slt"}
    with pytest.raises(ValueError, match="called 'anna'; allowed: ann"):
        Batches(corpus, 1, without="anna")
    assert len(Batches(corpus, 1, scale=3).at(0).texts) == 3 * SHAPES[0][1]


def test_a_resumed_training_equals_an_uninterrupted_one(corpus: Corpus, tmp_path: Path) -> None:
    from training.train import Settings, Training, train

    settings = Settings(steps=4, muon_from=1, warm_up_steps=2, mel_steps=3, dropout=0.1)
    batches = Batches(corpus, 1)
    whole = Training(settings, **TINY)
    for step in range(4):
        whole.take(batches.at(step))
    first = Training(settings, **TINY)
    for step in range(2):
        first.take(batches.at(step))
    first.save(tmp_path / "checkpoint.pt")
    second = train(batches, settings, tmp_path, **TINY)
    assert second.step == 4
    for averaged in (False, True):
        ours, theirs = whole.weights(averaged), second.weights(averaged)
        assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert json.loads((tmp_path / "training.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_training_ends_by_the_clock_and_once(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import train as module
    from training.train import Settings, train

    ticks = itertools.count()  # a quarter of a second passes from look to look, however fast this machine is
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 4))
    settings = Settings(steps=1, minutes=0.01)
    done = train(Batches(corpus, 1), settings, tmp_path, **TINY)
    assert done.step > 1 and done.seconds >= 0.6, "not at its steps"
    again = train(Batches(corpus, 1), settings, tmp_path, **TINY)
    assert again.step == done.step, "there is no time left"
    assert train(Batches(corpus, 1), replace(settings, minutes=None), tmp_path, **TINY).step == done.step, "nor steps"


def test_a_checkpoint_of_another_training_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    from training.train import Settings, train

    settings = Settings(steps=1)
    train(Batches(corpus, 1), settings, tmp_path, **TINY)
    with pytest.raises(ValueError, match=r"dropout 0.0 and not 0.1, scale 1 and not 2. Use the same, or remove"):
        train(Batches(corpus, 1, scale=2), replace(settings, dropout=0.1), tmp_path, **TINY)
    assert train(Batches(corpus, 1), replace(settings, steps=2), tmp_path, **TINY).step == 2


def test_a_training_can_begin_at_exported_weights(corpus: Corpus, tmp_path: Path) -> None:
    from training.export import export
    from training.train import Settings, Training, going_on, train

    first = Training(Settings(seed=5), **TINY)
    first.take(Batches(corpus, 1).at(0))
    export(first, tmp_path / "model", averaged=True)
    (tmp_path / "cache").mkdir()
    batches = Batches(corpus, 1, curriculum_steps=0)
    assert len({batches.at(step).audio.shape for step in range(8)}) > 1, "long rows from the start"
    begun = Training(going_on(2, seed=1), **TINY)
    begun.start(tmp_path / "model")
    ours, theirs = begun.weights(averaged=True), first.weights(averaged=True)
    assert all(torch_close(ours[name], theirs[name]) for name in theirs)
    done = train(batches, going_on(2, seed=1), tmp_path / "cache", tmp_path / "model", **TINY)
    assert done.step == 2 and not torch_close(done.weights(False)["lm_head.weight"], theirs["lm_head.weight"])


def test_models_are_averaged_weight_by_weight(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from training.export import average, export
    from training.train import Settings, Training

    for name, seed in (("a", 1), ("b", 2)):
        export(Training(Settings(seed=seed), **TINY), tmp_path / name, averaged=False)
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    a, b, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b", "mean"))
    assert not torch_close(a["lm_head.weight"], b["lm_head.weight"])
    assert all(torch_close(mean[name], (a[name] + b[name]) / 2) for name in a) and mean.keys() == a.keys()
    assert {path.name for path in (tmp_path / "mean").iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}
    with pytest.raises(ValueError, match="name another folder"):
        average([tmp_path / "a", tmp_path / "b"], tmp_path / "a")
    with pytest.raises(ValueError, match="one architecture"):
        average([tmp_path / "a", DEMO], tmp_path / "other")


def torch_close(one: Any, other: Any) -> bool:
    return bool(one.allclose(other, atol=1e-6))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    from training.train import Settings, schedule

    settings = Settings(steps=1000, warm_up_steps=100, decay_from=0.6)
    assert schedule(0, settings) == 0.01
    assert schedule(100, settings) == schedule(600, settings) == 1
    assert schedule(800, settings) == pytest.approx(0.5)
    assert schedule(800, replace(settings, steps=2000)) == 1
    assert schedule(800, replace(settings, lowest=0.2)) == pytest.approx(0.6)
    assert schedule(800, replace(settings, minutes=10.0), seconds=60) == 1, "by the clock, not by the steps"
    assert schedule(800, replace(settings, minutes=10.0), seconds=480) == pytest.approx(0.5)


def test_word_errors_are_summed_over_summed_words() -> None:
    assert word_errors([("one two three", "one too"), ("go", "go")]) == (2, 4)


def test_digit_strings_use_every_recording_twice(corpus: Corpus) -> None:
    digits = corpus.part("digits-held-out")
    strings = list(digit_strings(corpus, digits))
    assert sum(len(text.split()) for text, _ in strings) == 2 * len(digits)
    assert len(strings[0][1]) > 2 * 5000


@pytest.mark.skipif(not PROMPTS.is_dir(), reason="asterisk-core-sounds-en-wav is not installed")
def test_prompts_are_those_whose_words_are_all_known() -> None:
    prompts = list(_prompts())
    texts = [text for _, _, text, _ in prompts]
    assert {(part, voice) for part, voice, _, _ in prompts} == {("prompts", "allison")}
    assert set(words.DIGITS) < set(texts) and "is set to" in texts and "january" not in texts
    assert all(voices.RATE_HZ / 10 < len(samples) < 5 * voices.RATE_HZ for _, _, _, samples in prompts)


@speaks
def test_a_small_corpus_is_made_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path, 1, tmp_path / "absent", {"train": 4, "dev": 2, "accents": 3})
    assert [len(made.part(name)) for name in ("train", "dev", "accents")] == [4, 2, 3]
    assert "goes without its human speech" in capsys.readouterr().out
    again = load(tmp_path).utterances
    assert again == made.utterances and sum(utterance.length for utterance in again) == len(made.samples)
    assert all(voices.RATE_HZ / 5 < utterance.length < 20 * voices.RATE_HZ for utterance in again)


def test_a_missing_corpus_is_told_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m training corpus"):
        load(tmp_path)


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(voices.VoiceError, match="apt-get install espeak-ng flite"):
        voices.speak("go", "flite:slt", Random(0))


@speaks
def test_clips_can_be_made_anew(tmp_path: Path) -> None:
    count = clips.make(tmp_path, 30, seed=5)
    rows = _manifest(tmp_path)
    assert len(rows) == count == len(list(tmp_path.glob("*.flac")))
    assert sum(len(row["text"].split()) for row in rows) >= 30


def test_the_shipped_clips_are_what_their_manifest_says() -> None:
    rows = _manifest(CLIPS)
    named = {row["path"] for row in rows}
    assert named == {path.name for path in CLIPS.glob("*.flac")}
    assert {row["split"] for row in rows} == {"evaluate", "calibrate"}
    vocabulary = set(words.vocabulary())
    for row in rows:
        info = soundfile.info(CLIPS / row["path"])
        assert info.samplerate == voices.RATE_HZ and info.channels == 1 and 3 <= info.duration <= 20, row
        assert row["text"].isupper() and set(row["text"].lower().split()) <= vocabulary
    assert sum(path.stat().st_size for path in CLIPS.iterdir()) < 8e6


def test_the_demo_model_loads_and_hears_seen_voices() -> None:
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    assert find(str(DEMO)).source == "folder"
    assert (DEMO / "model.safetensors").stat().st_size < 16e6
    processor = Wav2Vec2Processor.from_pretrained(DEMO, local_files_only=True)
    model = Wav2Vec2ForCTC.from_pretrained(DEMO, local_files_only=True).eval()
    rows = [row for row in _manifest(CLIPS) if row["path"].startswith("seen") and row["split"] == "evaluate"][:8]
    pairs = []
    for row in rows:
        audio, _ = soundfile.read(CLIPS / row["path"], dtype="float32")
        pairs.append((row["text"].lower(), transcribe(model, audio)))
    errors, count = word_errors(pairs)
    assert errors / count < 0.25, pairs
    prepared = processor(audio, sampling_rate=voices.RATE_HZ, return_tensors="pt").input_values
    assert processor.batch_decode(model(prepared).logits.argmax(-1))[0].lower() == pairs[-1][1]


def _manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as f:
        reader = csv.DictReader(f)
        assert reader.fieldnames == ["path", "text", "split"]
        return list(reader)
