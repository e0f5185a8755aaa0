"""What a run will take, against arithmetic by hand for wav2vec2-base."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from bench import modes
from bench.artefacts import cache
from bench.core.specs import Placement, RunSpec, SpecError, Variant
from bench.device import cpu
from bench.families.family import ModelError
from bench.jobs import forecast, predictor, progress
from bench.jobs import memory as jobs_memory
from bench.jobs.forecast import Estimate
from bench.jobs.history import History
from bench.jobs.predictor import Measured
from bench.jobs.progress import Remaining
from bench.modes.mode import ModeError

BASE, HUB = "wav2vec2-base-random", "facebook/wav2vec2-base-960h"
FP32, INT8 = "torch-fp32", "torch-int8-dynamic"
ONE, TWO, EIGHT = Placement("cpu", 1), Placement("cpu", 2), Placement("cpu", 8)
EXTRACTOR = 512 * 10 + 4 * 512 * 512 * 3 + 2 * 512 * 512 * 2  # 4 199 424
POSITIONAL = 768 * 48 * 128  # 16 groups: 48 channels in; 4 718 592
LINEARS = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 512 * 768  # 85 327 872
HEAD = 768 * 32
ALL = 94_270_464


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much memory and disk, two cores of 1e9 MAC/s."""
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 10**12)
    monkeypatch.setattr(cpu, "default_threads", lambda: 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    monkeypatch.setattr(predictor, "_product_rate", lambda: 1e9)
    monkeypatch.setattr(predictor, "GROWTH", 1.0)


def grid(*modes: str, models: tuple[str, ...] = (BASE,), lengths: tuple[float, ...] = (1,), **more: object) -> RunSpec:
    return RunSpec.grid(models, modes, lengths, **({"placements": [TWO]} | more))  # type: ignore[arg-type]


def test_size_on_disk_by_hand() -> None:
    assert EXTRACTOR + POSITIONAL + LINEARS + HEAD == ALL
    size = {m: jobs_memory.artefact_bytes(Variant(BASE, m, TWO)) for m in (FP32, "torch-bf16", INT8)}
    assert size == {
        FP32: 4 * ALL,  # 377 081 856
        "torch-bf16": 2 * ALL,
        INT8: 4 * (EXTRACTOR + POSITIONAL) + LINEARS + HEAD,  # 121 024 512
    }
    assert size[INT8] == 121_024_512


def test_memory_and_disk_by_hand() -> None:
    found = forecast.estimate(grid(FP32, INT8))
    # Opening: 450 MB of libraries, 1.1 times the file, and of a pass the first convolution's output three times:
    # 16 000 / 5 = 3200 frames of 512 channels of 4 bytes.
    one_pass = 3 * 4 * 512 * 3200
    assert one_pass == jobs_memory.pass_bytes(BASE, [(1, 1.0)]) == 19_660_800
    fp32, int8 = 450_000_000 + 414_790_042 + one_pass, 450_000_000 + 133_126_963 + one_pass
    assert found.memory_bytes == fp32 + int8 == 1_487_238_605
    # What is left of both, and while int8 is built as much as the float weights take.
    assert found.disk_bytes == 377_081_856 + 121_024_512 + (377_081_856 - 121_024_512)
    # One variant alone: building it takes more than holding it, 2.2 times the float weights.
    assert forecast.estimate(grid(FP32)).memory_bytes == 450_000_000 + 829_580_083
    # The largest shape counts, batch included; two variants at once are enough, whatever else is asked for.
    longer = forecast.estimate(grid(FP32, INT8, "torch-bf16", lengths=(1, 2), batches=(1, 4)))
    bf16 = 450_000_000 + 207_395_021
    assert longer.memory_bytes == (fp32 - one_pass) + bf16 + 2 * 8 * one_pass
    # An artefact is shared by thread counts.
    assert forecast.estimate(grid(FP32, INT8, placements=[ONE, TWO])).disk_bytes == found.disk_bytes


def test_duration_uses_earlier_runs_and_guesses_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "work", lambda model, batch, size: batch * size * 1.4e9)
    build = 5 + ALL * 1e-7

    def quiet_s(spec: RunSpec, *measured: Measured) -> float:
        return forecast.estimate(spec, History(measured, 0.0, 0.0)).duration.quiet_s

    def visits_s(pass_s: float) -> float:
        return 10 * (4 * pass_s + predictor.VISIT_OVERHEAD_S)

    # The guess: two cores of 1e9, seven tenths of it reached: a pass of 1 s, four a visit, ten rounds.
    assert quiet_s(grid(FP32)) == pytest.approx(visits_s(1) + build, rel=1e-5)
    # More threads than cores are no faster.
    assert quiet_s(grid(FP32, placements=[EIGHT])) == pytest.approx(visits_s(1) + build, rel=1e-5)
    assert quiet_s(grid(FP32, placements=[ONE])) == pytest.approx(visits_s(2) + build, rel=1e-5)
    fast = Measured(Variant(BASE, FP32, TWO), 1, 2.0, 0.5, None)  # at twice the work
    assert quiet_s(grid(FP32), fast) == pytest.approx(visits_s(0.25) + build, rel=1e-5)
    # What was not measured is taken to be as fast as the other modes of the model at this placement.
    assert quiet_s(grid(FP32, INT8), fast) == pytest.approx(2 * visits_s(0.25) + 2 * build)
    # Other threads of the same model say more than a guess.
    assert quiet_s(grid(FP32, placements=[ONE]), fast) == pytest.approx(visits_s(0.25) + build, rel=1e-5)
    # A visit keeps at least 0.3 s of passes: 30 of 10 ms, and one is discarded.
    short = Measured(Variant(BASE, FP32, TWO), 1, 1.0, 0.01, None)
    assert quiet_s(grid(FP32), short) == pytest.approx(10 * (0.31 + predictor.VISIT_OVERHEAD_S) + build, rel=1e-5)
    # Over 2 s a visit has one discarded and one kept pass, so 20 repeats are 20 rounds.
    slow = grid(FP32, lengths=(3,), repeats=20)
    assert quiet_s(slow) == pytest.approx(20 * (2 * 3 + predictor.VISIT_OVERHEAD_S) + build, rel=1e-5)


def test_the_range_is_told_in_words() -> None:
    assert forecast.time_text(Remaining(100, 300, 540)) == "2 min when quiet, at most 9 min"
    assert forecast.time_text(Remaining(20, 20, 20.2)) == "about 20 s"


def test_the_upper_end_is_what_the_rule_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "work", lambda model, batch, size: batch * size * 1e9)
    measured = Measured(Variant(BASE, FP32, TWO), 1, 1.0, 0.1, 0.001)
    spec = grid(FP32, lengths=(1, 10, 60))
    e = forecast.estimate(spec, History((measured,), 0.0, 0.0)).duration
    build = 5 + ALL * 1e-7
    one_s, ten_s, minute_s = (4 * 0.1 + 0.06), (4 * 1.0 + 0.06), (2 * 6.0 + 0.06)
    assert e.quiet_s == pytest.approx(10 * (one_s + ten_s + minute_s) + build, rel=1e-5)
    # Half as slow again: 40 rounds of 0.69 s; 20 rounds of 6.09 s are the first to exceed 120 s; 10 rounds of 18.09 s
    # exceed it by far, but ten are always measured.
    assert e.most_s == pytest.approx(1.5 * (40 * one_s + 20 * ten_s + 10 * minute_s) + build, rel=1e-5)


def made(memory: int = 0, disk: int = 0, download: int = 0) -> Estimate:
    return Estimate(Remaining(1, 1, 1), memory, 2_000_000_000, disk, 3_000_000_000, download)


def test_refusals_are_sentences_with_a_way_out(tmp_path: Path) -> None:
    assert made(2_000_000_000, 2_000_000_000, 1_000_000_000).refusal is None  # all of it is enough
    assert made(2_500_000_000).refusal == (
        "This run needs about 2.5 GB of memory at once, and 2.0 GB are free. Close other programs, or choose a "
        "smaller model, a shorter length or a smaller batch."
    )
    assert made(0, 2_100_000_000, 1_000_000_000).refusal == (
        f"This run writes about 3.1 GB, and 3.0 GB are free on {tmp_path}. Make room there, or name another folder "
        "in EARBENCH_DATA."
    )


def test_what_is_free_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 1_487_238_604)  # one byte less than by hand above
    assert "of memory at once" in str(forecast.estimate(grid(FP32, INT8)).refusal)
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 1_487_238_605)
    assert forecast.estimate(grid(FP32, INT8)).refusal is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=754_163_711))
    assert "This run writes about 0.8 GB" in str(forecast.estimate(grid(FP32, INT8)).refusal)


def test_the_compiler_of_what_is_compiled_when_opened_is_charged() -> None:
    dynamic, static = (
        jobs_memory.open_bytes(Variant(BASE, mode, TWO), 10**8, [(1, 5.0)]) for mode in (INT8, "torch-int8-static")
    )
    assert static - dynamic == jobs_memory.COMPILER_BYTES


def test_what_is_in_the_cache_is_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(cache, "at_hand", lambda model, mode, settings: "digest" if mode in there else None)
    first = forecast.estimate(grid(FP32, INT8))
    there.add(FP32)
    second = forecast.estimate(grid(FP32, INT8))
    assert second.disk_bytes == first.disk_bytes - 377_081_856 == 377_081_856  # int8 while it is built
    assert first.duration.quiet_s - second.duration.quiet_s == pytest.approx(progress.BUILD_S + ALL * 1e-7, rel=1e-5)
    there.add(INT8)
    third = forecast.estimate(grid(FP32))
    opened = jobs_memory.open_bytes(Variant(BASE, FP32, TWO), 377_081_856, [(1, 1.0)])
    assert third.disk_bytes == 0 and third.memory_bytes == opened
    assert third.memory_bytes < jobs_memory.build_bytes(Variant(BASE, FP32, TWO))


def test_what_a_mode_is_built_from_is_charged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(cache, "at_hand", lambda model, mode, settings: "digest" if mode in there else None)
    for name in ("torch-bf16", INT8):
        mode = modes.find(name)
        monkeypatch.setattr(mode, "SPEC", replace(mode.SPEC, base=FP32))
    built = jobs_memory.to_build(grid("torch-bf16", INT8, placements=[ONE, TWO]).variants)
    assert sorted(v.mode for v in built) == ["torch-bf16", FP32, INT8]
    there.add(FP32)
    assert sorted(v.mode for v in jobs_memory.to_build(grid("torch-bf16", INT8).variants)) == ["torch-bf16", INT8]
    there.update(("torch-bf16", INT8))
    assert jobs_memory.to_build(grid("torch-bf16", INT8).variants) == []


def test_a_download_counts_once_and_only_where_nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    cached: dict[str, object] = {}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda where, name: cached.get(name))
    assert forecast.estimate(grid(FP32, INT8, models=(BASE, HUB))).download_bytes == 378_000_000
    cached["model.safetensors"] = object()  # the hub's word for: known not to exist
    assert forecast.estimate(grid(FP32, models=(HUB,))).download_bytes == 378_000_000
    cached["pytorch_model.bin"] = "/somewhere/pytorch_model.bin"
    assert forecast.estimate(grid(FP32, models=(HUB,))).download_bytes == 0
    assert forecast.estimate(grid(FP32)).download_bytes == 0


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match="no model or folder “nope”"):
        forecast.estimate(grid(FP32, models=("nope",)))
    with pytest.raises(ModeError, match="no mode “nope”"):
        forecast.estimate(grid("nope"))
    with pytest.raises(SpecError, match=r"^Device: got nope:0; allowed: cpu\.$"):
        forecast.estimate(grid(FP32, placements=[Placement("nope:0", 1)]))
