"""Steps a channel by hand, and convolutions that multiply integers in both engines beside the float ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.families.family import Array
from bench.families.wav2vec2 import FAMILY
from bench.modes import channel_scales
from bench.modes.channel_scales import Grid


def grid(x: Array, gelu: bool = False) -> Grid:
    return channel_scales.grid(x, np.minimum(x.min(1), 0), np.maximum(x.max(1), 0), gelu)


def test_values_on_a_grid_keep_their_steps() -> None:
    """Every channel's values are step (k - 32) with k from 0 to 255: only that grid is without error."""
    steps = np.array([0.01, 0.5], np.float32)
    k = np.stack([np.arange(256), np.arange(256)[::-1]]) - 32
    chosen = grid((k * steps[:, None]).astype(np.float32))
    assert chosen.zero == 32
    np.testing.assert_allclose(chosen.step, steps, rtol=1e-5)


def test_a_lone_peak_is_clipped_where_quiet_frames_are_many() -> None:
    """One frame in a thousand reaches 10 where all others lie within 0.2: a step of 10 / 247 would swallow them."""
    x = np.random.default_rng(0).uniform(0, 0.2, (1, 1000)).astype(np.float32)
    x[0, 500] = 10
    chosen = grid(x)
    assert chosen.step[0] == pytest.approx(10 * 0.05 / (255 - chosen.zero), rel=1e-5)  # the least share that is tried


def test_nothing_below_zero_is_clipped() -> None:
    """A hundred values of -1 beside many near zero: an error of the whole tail would be the same in every sum."""
    x = np.random.default_rng(1).uniform(-0.01, 0.01, (1, 1000)).astype(np.float32)
    x[0, :100] = -1
    chosen = grid(x)
    assert chosen.zero * chosen.step[0] >= 1


def test_an_error_counts_as_what_gelu_leaves_of_it() -> None:
    """Around -0.75 GELU has no slope: many values there want no fine step, and a few up to 30 keep their range."""
    x = np.random.default_rng(2).uniform(-0.85, -0.65, (1, 1000)).astype(np.float32)
    x[0, ::100] = np.linspace(10, 30, 10)
    plain, gelu = grid(x), grid(x, gelu=True)
    assert (255 - gelu.zero) * gelu.step[0] > 25 > (255 - plain.zero) * plain.step[0]


def test_a_channel_that_never_moves_gets_a_step() -> None:
    x = np.zeros((2, 4), np.float32)
    x[1] = 1, 2, 3, 4
    chosen = grid(x)
    assert chosen.step[0] == pytest.approx(1e-3 * 4 / (255 - chosen.zero), rel=1e-5)
    assert (grid(np.zeros((1, 4), np.float32)).step > 0).all()


def test_steps_are_taken_into_the_weights() -> None:
    """Steps 1 and 4 share 2, their geometric mean: the weights become 1/2 and 2 times, then ±127 of the greatest."""
    weight = np.array([[[2.0], [1.0]], [[4.0], [-0.25]]], np.float32)  # (out, in, width)
    read = Grid(np.array([1, 4], np.float32), 0)
    integers, scale = channel_scales.fold(weight, read)
    assert read.shared == pytest.approx(2)
    np.testing.assert_allclose(scale, [2 / 127, 2 / 127], rtol=1e-6)
    assert integers.dtype == np.int8
    assert integers[:, :, 0].tolist() == [[64, 127], [127, -32]]  # 63.5 to the even one, -31.75


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """The sums are 32-bit integers: at a scale as small as no weights want, a bias of 3 would not fit."""
    weight = np.zeros((2, 1, 1), np.float32)
    weight[1] = 1
    bias = np.array([3, 3], np.float32)
    read = Grid(np.array([0.5], np.float32), 0)
    _, scale = channel_scales.fold(weight, read, 127, bias)
    assert (np.abs(bias / (scale * read.shared)) < 2**31).all() and scale[0] > 0
    assert scale[1] == pytest.approx(1 / 127)


def test_grids_of_several_clips(tmp_path: Path) -> None:
    """Of 1 s and 30 s, of which modes look at the first 10; before GELU nothing below -4 is asked for."""
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper, save

    from bench.modes.onnx import watch

    weight = numpy_helper.from_array(np.array([1, -2], np.float32)[:, None, None], "w")
    axes = numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["wide"]),
        helper.make_node("Conv", ["wide", "w"], ["conv"], name="extractor.conv"),
        helper.make_node("Gelu", ["conv"], ["gelu"]),
        helper.make_node("Sin", ["gelu"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [weight, axes])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "model.onnx")
    sensitive = ("extractor.conv", "extractor.norm", "extractor.second")  # a network may name what is no convolution
    assert [n.name for n in watch.convolutions(graph, sensitive)] == ["extractor.conv"]
    assert watch.convolutions(graph, ()) == []
    assert watch.into_gelu(graph) == {"conv"}
    clips = [
        np.linspace(0, 8, 16_000, dtype=np.float32)[None],
        np.r_[np.linspace(0, 8, 160_000), np.full(320_000, 1e6)].astype(np.float32)[None],
    ]
    feeds = [FAMILY.crop({"x": clip}, FAMILY.CALIBRATION_SIZE) for clip in clips]
    grids = watch.grids(tmp_path / "model.onnx", {"conv": True, "gelu": False}, feeds, tmp_path, lambda _: None)
    rises, falls = grids["conv"].step
    assert 0.9 * 8 < rises * (255 - grids["conv"].zero) < 1.1 * 8  # not 1e6, which came later
    assert 4 <= falls * grids["conv"].zero < 8  # -16 was there and is not wanted
    assert 0.9 * 8 < grids["gelu"].step[0] * (255 - grids["gelu"].zero) < 1.1 * 8


SPREAD = np.geomspace(0.1, 10, 16, dtype=np.float32)[:, None]  # channels as unlike as an extractor's


@pytest.fixture(scope="module")
def x() -> Array:
    rng = np.random.default_rng(1)
    return np.asarray(np.abs(rng.standard_normal((16, 200))) * SPREAD - 0.17, np.float32)


@pytest.fixture(scope="module")
def weight() -> Array:
    return np.asarray(np.random.default_rng(2).standard_normal((24, 16, 3)) / SPREAD.T[:, :, None], np.float32)


def snr_db(exact: Array, rounded: Array) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - rounded).sum()))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("levels", "least"), [(127, 27), (63, 21)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_of_integers_on_onnx_runtime(
    signed: bool, levels: int, least: float, biased: bool, x: Array, weight: Array, tmp_path: Path
) -> None:
    """As on every processor: unsigned or signed activations, 8-bit or 7-bit weights."""
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    from bench.modes.onnx import channel_convs

    bias = np.linspace(-3, 3, 24, dtype=np.float32)
    tensors = [numpy_helper.from_array(weight, "w"), *([numpy_helper.from_array(bias, "b")] if biased else [])]
    conv = helper.make_node("Conv", ["x", *(t.name for t in tensors)], ["y"], name="conv", strides=[2])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    made = helper.make_graph([conv], "graph", ends[:1], ends[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    exact, ran = _run_onnx(model, x, tmp_path)
    assert ran == {"Conv"}
    channel_convs.quantize(model.graph, model.graph.node[0], grid(x), grid(exact), signed=signed, levels=levels)
    rounded, ran = _run_onnx(model, x, tmp_path)
    assert "QLinearConv" in ran and "Conv" not in ran  # one kernel of integers, not floats between conversions
    assert least < snr_db(exact, rounded) < 60  # it is near, and it is another precision
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert set(stored) & {"w", "b"} == set()
    assert (np.abs(stored["conv.weight_quantized"]).max((1, 2)) == levels).all()  # every output uses its range
    assert stored["conv.read_zero"].dtype == (np.int8 if signed else np.uint8)


def _run_onnx(model: Any, x: Array, folder: Path) -> tuple[Array, set[str]]:
    """What it gives, (channels, frames), and the kinds of nodes that ran."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    out = session.run(None, {"x": x[None]})[0][0]
    events = json.loads(Path(session.end_profiling()).read_text())
    return out, {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


@pytest.mark.parametrize("image", [False, True])
def test_a_convolution_of_integers_on_openvino(image: bool, x: Array, weight: Array) -> None:
    """Over time, and over images of one line as all modes have them."""
    openvino = pytest.importorskip("openvino")
    from openvino import Type, opset13

    from bench.modes.openvino import channel_convs

    batch, kernel, spans = x[None], weight, ([2], [0], [0], [1])
    if image:
        batch, kernel, spans = batch[:, :, None], kernel[:, :, None], ([1, 2], [0, 0], [0, 0], [1, 1])
    source = opset13.parameter(batch.shape, Type.f32)
    conv = opset13.convolution(source, opset13.constant(kernel), *spans, name="conv")
    model = openvino.Model([opset13.relu(conv)], [source])
    exact = _run_openvino(model, batch)
    channel_convs.quantize(conv, grid(x))
    assert 26 < snr_db(exact, _run_openvino(model, batch)) < 60
    (again,) = channel_convs.convolutions(model, ("conv", "none of that name"))
    integers = again.input_value(1).get_node().input_value(0).get_node().input_value(0).get_node()
    assert integers.get_element_type() == Type.i8
    assert (np.abs(integers.data).max(axis=tuple(range(1, kernel.ndim))) == 127).all()
    compiled = openvino.Core().compile_model(model, "CPU")
    (ran,) = [op for op in compiled.get_runtime_model().get_ops() if _kind(op) == "Convolution"]
    assert ran.input_value(0).get_element_type() == Type.u8  # integers are multiplied, zero point and all


def _kind(op: Any) -> str:
    return str(op.get_rt_info()["layerType"].astype(str))


def _run_openvino(model: Any, x: Array) -> Array:
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([x])[0])


def test_an_extractor_over_images_gives_what_it_gives_over_time(x: Array, weight: Array) -> None:
    """A convolution, a norm over time with its weights, GELU, a sum of two of them, and a reader that wants 3-d."""
    openvino = pytest.importorskip("openvino")
    from openvino import Type, opset13

    from bench.modes.openvino.extractor import over_images

    source = opset13.parameter([-1, 16, -1], Type.f32)
    conv = opset13.convolution(source, opset13.constant(weight), [2], [1], [0], [1], name="first")
    norm = opset13.mvn(conv, np.array([2], np.int64), True, 1e-5, "inside_sqrt", name="norm")
    scaled = opset13.multiply(norm, np.linspace(1, 2, 24, dtype=np.float32)[None, :, None], name="scaled")
    lifted = opset13.add(scaled, np.linspace(-1, 1, 24, dtype=np.float32)[None, :, None], name="lifted")
    moved = opset13.add(lifted, np.float32(0.1), name="moved")
    bent = opset13.gelu(moved, "tanh", name="bent")
    kernel = np.random.default_rng(3).standard_normal((24, 24, 2)).astype(np.float32)
    second = opset13.convolution(bent, opset13.constant(kernel), [1], [0], [0], [3], name="second")
    turned = opset13.transpose(second, np.array([0, 2, 1], np.int64), name="turned")
    third = opset13.convolution(turned, np.ones((5, 97, 3), np.float32), [1], [0], [0], [1], name="third")
    model = openvino.Model([opset13.result(third), opset13.result(opset13.add(bent, norm))], [source])
    batch = np.stack([x, x[::-1]])
    over_time = [np.array(out) for out in openvino.Core().compile_model(model, "CPU")([batch]).values()]
    over_images(model)
    images = [np.array(out) for out in openvino.Core().compile_model(model, "CPU")([batch]).values()]
    for one, other in zip(over_time, images, strict=True):
        assert one.shape == other.shape and snr_db(one, other) > 50
    ranks = {op.get_friendly_name(): op.get_output_partial_shape(0).rank.get_length() for op in model.get_ordered_ops()}
    assert [
        ranks[name] for name in ("first", "norm", "scaled", "lifted", "moved", "bent", "second", "turned", "third")
    ] == [
        *[4] * 7,
        *[3] * 2,
    ]
