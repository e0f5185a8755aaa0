"""bfloat16 in OpenVINO's graphs: rounding by hand, and which products read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.families.family import Array
from bench.modes.openvino import bfloat16
from bench.modes.openvino import engine as openvino_engine


def stored(model: Any) -> list[str]:
    """The type in which each product reads its weight."""
    products = [op for op in model.get_ordered_ops() if op.get_type_name() in bfloat16.PRODUCTS]
    return [str(op.input_value(1).get_element_type().get_type_name()) for op in products]


def two_products(bias: Array, integers: bool = False) -> Any:
    """A convolution of 4 to 4 channels with a bias and GELU, and a matrix product that gives the result."""
    from openvino import Model, Type, opset13

    random = np.random.default_rng(0)
    x = opset13.parameter([1, 4, 9], Type.f32)
    read = opset13.fake_quantize(x, *map(np.float32, (-2, 2, -2, 2)), 256) if integers else x
    weight = opset13.constant(random.standard_normal((4, 4, 3)).astype(np.float32))
    scale = np.full((4, 1, 1), 0.01, np.float32)
    rounded = opset13.constant(random.integers(-127, 128, (4, 4, 3)).astype(np.int8))
    kernel = opset13.multiply(opset13.convert(rounded, Type.f32), scale) if integers else weight
    conv = opset13.convolution(read, kernel, [1], [0], [0], [1])
    gelu = opset13.gelu(opset13.add(conv, bias.reshape(1, 4, 1).astype(np.float32)), "erf")
    head = opset13.constant(random.standard_normal((7, 5)).astype(np.float32))
    return Model([opset13.matmul(gelu, head, False, False)], [x])


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        (1.0, 1.0),
        (1 + 2**-8, 1.0),  # as near to 1 as to 1 + 2^-7: the even one
        (1 + 3 * 2**-8, 1 + 2**-6),  # as near to 1 + 2^-7 as to 1 + 2^-6: the even one, upwards
        (1 + 2**-8 + 2**-20, 1 + 2**-7),  # the nearer one, upwards, where OpenVINO's conversion cuts off
        (-1 - 2**-8 - 2**-20, -1 - 2**-7),
        (1 + 2**-9, 1.0),
        (0.0, 0.0),
        (255.9, 256.0),  # across a power of two
    ],
)
def test_rounding_by_hand(value: float, nearest: float) -> None:
    assert bfloat16._nearest(np.array([value], np.float32)).tolist() == [nearest]


def test_a_single_number_keeps_its_shape() -> None:
    assert bfloat16._nearest(np.float32(0.3)).shape == ()


def test_rounding_is_the_nearest_everywhere() -> None:
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    rounded = bfloat16._nearest(x)
    step = 2.0 ** (np.floor(np.log2(np.abs(x))) - 7)
    assert np.all(np.abs(rounded - x) <= step / 2)
    assert not np.any(rounded.view(np.uint32) & 0xFFFF)
    np.testing.assert_array_equal(bfloat16._nearest(rounded), rounded)


@pytest.mark.skipif(openvino_engine.runs("bf16") != "bf16", reason="OpenVINO multiplies no bfloat16 on this processor")
def test_stored_weights_are_what_openvino_makes_of_floats_by_itself() -> None:
    """Its kernels round float32 when they are told to multiply in bf16: with the stored halves they give the same."""
    import openvino

    x = np.random.default_rng(1).standard_normal((1, 4, 9)).astype(np.float32)
    rounded = two_products(np.full(4, 0.25))
    bfloat16.store(rounded)
    models = (two_products(np.full(4, 0.25)), rounded)
    compiled = [openvino.Core().compile_model(m, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}) for m in models]
    np.testing.assert_array_equal(*[one([x])[0] for one in compiled])


def test_what_is_stored_is_floats_to_its_readers() -> None:
    model = two_products(np.full(4, 0.3))
    bfloat16.store(model)
    assert stored(model) == ["f32", "f32"]
    constants = [op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
    assert {op.get_output_element_type(0).get_type_name() for op in constants} == {"bf16"}


def test_a_convolution_reads_halves_and_the_product_that_gives_the_result_does_not() -> None:
    model = two_products(np.full(4, 0.3))
    bfloat16.store(model)
    bfloat16.read(model)
    assert stored(model) == ["bf16", "f32"]
    assert model.output(0).get_element_type().get_type_name() == "f32"
    (gelu,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "Gelu")
    assert gelu.get_output_element_type(0).get_type_name() == "bf16"  # stays with the convolution


def test_only_convolutions_are_stored_in_halves_with_their_biases() -> None:
    model = two_products(np.full(4, 0.3))
    bfloat16.store_convolutions(model)
    bfloat16.read(model)
    assert stored(model) == ["bf16", "f32"]
    kinds = [str(op.get_output_element_type(0).get_type_name()) for op in model.get_ops() if not op.get_input_size()]
    assert sorted(kinds) == ["bf16", "bf16", "f32", "f32"]  # kernel and bias; the head and the input


@pytest.mark.parametrize(("bias", "weight_type"), [(0.25, "bf16"), (0.3, "f32")])
def test_a_bias_that_would_be_rounded_leaves_its_product_alone(bias: float, weight_type: str) -> None:
    from openvino import Type, opset13

    model = two_products(np.full(4, bias))
    (conv,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    kernel = bfloat16._nearest(conv.input_value(1).get_node().data)
    half = opset13.convert(opset13.constant(kernel, Type.bf16), Type.f32)
    conv.input(1).replace_source_output(half.output(0))
    bfloat16.read(model)
    assert stored(model)[0] == weight_type


def test_a_convolution_of_integers_stays_one() -> None:
    model = two_products(np.full(4, 0.25), integers=True)
    bfloat16.store_convolutions(model)
    bfloat16.read(model)
    assert stored(model) == ["f32", "f32"]


def test_int8_weights_of_a_float_convolution_become_halves() -> None:
    model = two_products(np.full(4, 0.25), integers=True)
    (conv,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    conv.input(0).replace_source_output(model.inputs[0])
    bfloat16.read(model)
    assert stored(model) == ["bf16", "f32"]
    values = conv.input_value(1).get_node().data.view(np.uint16).astype(np.uint32) << 16
    integers = np.random.default_rng(0)
    integers.standard_normal((4, 4, 3))
    scaled = integers.integers(-127, 128, (4, 4, 3)) * np.float32(0.01)
    np.testing.assert_array_equal(values.view(np.float32), bfloat16._nearest(scaled))
