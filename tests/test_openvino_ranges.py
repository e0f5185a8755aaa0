"""Steps by hand, and a convolution that multiplies integers beside the float one."""

from __future__ import annotations

import numpy as np
import pytest

from bench.modes import _openvino_ranges


def test_values_on_a_grid_keep_their_steps() -> None:
    """Every channel's values are low + k step with k up to 255: no narrower range is without error."""
    wanted = np.array([0.01, 0.5], np.float32)
    k = np.stack([np.arange(256), np.arange(256)[::-1]]).astype(np.float32)
    x = -0.25 + k * wanted[:, None]  # (channels, frames)
    found = _openvino_ranges.steps(x, -0.25, x.max(1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_lone_peak_is_clipped_where_quiet_frames_are_many() -> None:
    """One frame in a thousand reaches 10 where all others lie within 0.2: a step of 10 / 255 would swallow them."""
    x = np.random.default_rng(0).uniform(0, 0.2, (1, 1000)).astype(np.float32)
    x[0, 500] = 10
    (step,) = _openvino_ranges.steps(x, 0.0, x.max(1))
    assert step == pytest.approx(10 * 0.05 / 255, rel=1e-5)  # the least share that is tried


def test_a_channel_that_never_moves_gets_a_step() -> None:
    found = _openvino_ranges.steps(np.zeros((1, 4), np.float32), 0.0, np.zeros(1, np.float32))
    assert np.isfinite(found).all() and (found > 0).all()


def test_a_convolution_of_integers_gives_what_the_float_one_gives() -> None:
    openvino = pytest.importorskip("openvino")
    from openvino import Type, opset13

    rng = np.random.default_rng(1)
    spread = np.geomspace(0.1, 10, 16, dtype=np.float32)[:, None]  # channels as unlike as an extractor's
    x = (np.abs(rng.standard_normal((16, 200))) * spread - 0.17).astype(np.float32)
    weight = (rng.standard_normal((24, 16, 3)) / spread.T[:, :, None]).astype(np.float32)
    source = opset13.parameter([1, 16, 200], Type.f32)
    conv = opset13.convolution(source, opset13.constant(weight), [2], [0], [0], [1], name="conv")
    model = openvino.Model([opset13.relu(conv)], [source])
    wanted = _run(openvino, model, x)
    low = float(x.min())
    _openvino_ranges.quantize(conv, low, _openvino_ranges.steps(x, low, x.max(1)))
    found = _run(openvino, model, x)
    snr_db = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())
    assert 25 < snr_db < 60  # it is near, and it is another precision
    (again,) = _openvino_ranges.convolutions(model)
    integers = again.input_value(1).get_node().input_value(0).get_node().input_value(0).get_node()
    assert integers.get_element_type() == Type.i8
    assert (np.abs(integers.data).max((1, 2)) == 127).all()  # every output channel uses its range


def _run(openvino: object, model: object, x: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # type: ignore[attr-defined]
    return np.array(compiled([x[None]])[0])
