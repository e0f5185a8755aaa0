"""Static int8 on OpenVINO: NNCF for the transformer, per-channel steps for the feature extractor."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.families.network import Feed, Network
from bench.modes import channel_scales
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Option, Precision, Progress, calibration
from bench.modes.onnx import engine as onnx_engine
from bench.modes.onnx import watch
from bench.modes.openvino import bfloat16, channel_convs, engine

_QUANTIZE = """clips = [audio.numpy()]  # calibrate on speech of your own
first = next(op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution")
# One range a tensor: Earbench gives the feature extractor's convolutions one a channel.
graph = nncf.quantize(
    graph,
    nncf.Dataset(clips),
    model_type=nncf.ModelType.TRANSFORMER,
    ignored_scope=nncf.IgnoredScope(names=[first.get_friendly_name()], types=["GroupConvolution"]),
    advanced_parameters=nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
    ),
)
"""


class Int8Static(engine.OpenVinoMode):
    """See the module."""

    FLOATS = "bf16"
    SPEC = ModeSpec(
        name="openvino-int8-static",
        label="int8 static (OpenVINO)",
        engine="openvino",
        weights=Precision(
            8,
            "matrix products and convolutions become 8-bit integers, one scale per output channel; the first "
            "convolution and the positional one 16-bit (bfloat16)",
        ),
        activations=Precision(
            8,
            "8-bit integers inside them, with ranges calibrated on clips: one per channel in the feature extractor, "
            "one per tensor elsewhere; the rest 16-bit (bfloat16) where the processor has it",
        ),
        needs=Needs(packages=("openvino",), build_packages=(*engine.QUANTIZE_PACKAGES, "onnx", "onnxruntime")),
        cost=Cost(memory_bytes=700_000_000, memory_copies=4.0, disk_copies=0.3),
        stores={"": 8, "grouped convolution": 16},
        settings={
            **calibration(16),
            "float_convs": Option(1, "how many of the feature extractor's first convolutions stay float", 0, 7),
            "ranges": Option(
                "channel",
                "of the feature extractor's activations: one per channel with the least error, or one per tensor "
                "between the means over clips of its least and of its greatest value, as is usual",
                allowed=("channel", "minmax"),
            ),
        },
        offered=({"float_convs": 0, "ranges": "minmax"},),
        base="onnx-fp32",
        data="examples",
        float_reference="openvino-fp32",
        min_snr_db=22.0,
        min_random_snr_db=8.0,
        version=3,
        code=engine.code("bf16", _QUANTIZE),
        code_differs="it is calibrated on its own input, Earbench on clips; its convolutions have one range a tensor",
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Calibrate on the examples and write int8 weights."""
        for network in family.read_networks(out):
            graph = _quantized(source, network, data.feeds[network.name], settings, out, progress)
            progress("writing the weights")
            engine.save(graph, out / f"{network.name}{engine.ENDING}", self.FLOATS)
        return {}


MODE = Int8Static()


def _quantized(
    base: Path, network: Network, feeds: Sequence[Feed], settings: Mapping[str, Setting], out: Path, progress: Progress
) -> Any:
    """Return one network as a graph with int8 weights."""
    source = base / f"{network.name}{onnx_engine.ENDING}"
    float_convs, by_channel = int(settings["float_convs"]), settings["ranges"] == "channel"
    grids: list[channel_scales.Grid] = []
    if by_channel:
        import onnx

        convs = watch.convolutions(onnx.load(source).graph, network.sensitive)[float_convs:]
        inputs = dict.fromkeys((conv.input[0] for conv in convs), False)
        with tempfile.TemporaryDirectory(dir=out) as folder:
            grids = list(watch.grids(source, inputs, feeds, Path(folder), progress).values())
    progress("converting from ONNX")
    graph = engine.read(base, network)
    graph_convs = channel_convs.convolutions(graph, network.sensitive)
    names = [conv.get_friendly_name() for conv in (graph_convs if by_channel else graph_convs[:float_convs])]
    graph = _nncf(graph, feeds, names, progress)
    if by_channel:
        for conv, grid in zip(channel_convs.convolutions(graph, network.sensitive)[float_convs:], grids, strict=True):
            channel_convs.quantize(conv, grid)
    bfloat16.store_convolutions(graph)  # the convolutions that stay float
    return graph


def _nncf(graph: Any, feeds: Sequence[Feed], floats: list[str], progress: Progress) -> Any:
    """Quantize all products to int8 except the nodes in `floats` and the positional convolution, 3 % of the work.

    OpenVINO 2026.4 computes the positional convolution wrongly in int8 on processors with AMX (logits at -5 dB).
    SmoothQuant's shift between activations and weights cost 9 dB on a trained model, and bias correction changes
    nothing, so both are off.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    counter = itertools.count(1)

    def to_inputs(feed: Feed) -> dict[str, Any]:
        progress(f"recording activations, clip {next(counter)} of {len(feeds)}")
        return dict(feed)

    return nncf.quantize(
        graph,
        nncf.Dataset(feeds, to_inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(names=floats, types=["GroupConvolution"], validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
        ),
    )
