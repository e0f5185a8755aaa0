"""torch.compile: the C++ compiler and the cache that it needs, and the 8-bit operators of the compiled graph."""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import paths
from bench.core.specs import Placement
from bench.families.network import Feed, Network
from bench.modes.torch import engine

if TYPE_CHECKING:
    from torch import nn

_COMPILERS = ("g++", "clang++")
# Names of the functions that inductor's lowering puts into a graph, and the torch operators that they call.
_LOWERED = {
    "qlinear": "onednn::qlinear_pointwise",
    "qlinear_binary": "onednn::qlinear_pointwise",
    "qconv": "onednn::qconv_pointwise",
    "qconv_binary": "onednn::qconv2d_pointwise",
}

_INSTALL = "xcode-select --install" if sys.platform == "darwin" else "apt-get install g++"


def compiler() -> str | None:
    """Return the installed C++ compiler: the one in CXX, or the first of `_COMPILERS`; None if there is none."""
    return next((name for name in (os.environ.get("CXX"), *_COMPILERS) if name and shutil.which(name)), None)


def check() -> str:
    """Return a remark on compilation. Raises RuntimeError, with the reason and the fix, if compilation can't work."""
    if compiler() is None:
        raise RuntimeError(
            "it is compiled when it is opened, and there is no C++ compiler here (neither g++ nor clang++, and CXX "
            f"names none); fix: {_INSTALL}"
        )
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.is_file():
        raise RuntimeError(
            f"it is compiled when it is opened, and Python's headers are missing ({headers}); fix: apt-get install "
            f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        )
    return "compiles when it is opened: minutes for a large model"


class CompiledOpened(engine.TorchOpened):
    """A module compiled with dynamic lengths; `ran` holds the 8-bit operators that its graph calls, by module.

    One compilation serves all lengths at batch 1, and another one all larger batches. Short inputs cause a few more:
    below 20480 elements torch uses another convolution (with 512 channels that is below half a second).
    """

    def __init__(self, module: nn.Module, network: Network, placement: Placement) -> None:
        """Prepare compilation, which happens at the first pass. Compiler output is kept in the cache folder."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(paths.cache() / "inductor")  # overrides torch's own
        os.environ.setdefault("CXX", compiler() or "g++")
        super().__init__(module, network, placement)
        import torch

        self.ran: dict[str, set[str]] = {}
        tensors = itertools.chain(module.named_parameters(), module.named_buffers())
        self._owners = {tensor.data_ptr(): name.rpartition(".")[0] for name, tensor in tensors}
        config: Any = importlib.import_module("torch._inductor.config")
        # Set process-wide, because tracing reads it too: frozen weights are constants and can be packed for 8 bits.
        config.freezing = True
        config.fx_graph_cache = False  # packed weights can't be cached; the C++ compiler's output is
        config.compile_threads = 1  # no child processes that outlive this one
        config.post_grad_custom_post_pass = self._record
        self._compiled = torch.compile(engine.tensors_alone(module, network), dynamic=True)

    def start(self) -> Callable[[Feed], Feed]:
        """See Opened; state is not supported."""
        return self._run

    def _run(self, feed: Feed) -> Feed:
        import torch

        with torch.no_grad():
            outputs = self._compiled(*(torch.from_numpy(feed[port.name]) for port in self.network.inputs))
            return {name: x.numpy() for name, x in engine.by_name(outputs, self.network.outputs).items()}

    def _record(self, graph: Any) -> None:
        """Record the 8-bit operators of a graph; called after all other passes over every compiled graph.

        A product that is fused with the following nodes is named after those, so its layer is identified by the tensors
        that it reads.
        """
        for node in graph.nodes:
            name = _operator(node.target)
            if name in engine.INT8_OPERATORS:
                tensors = [getattr(graph.owning_module, n.target) for n in node.all_input_nodes if n.op == "get_attr"]
                for owner in {self._owners.get(t.data_ptr()) for t in tensors if not t.is_mkldnn} - {None}:
                    self.ran.setdefault(str(owner), set()).add(name)


def _operator(target: Any) -> str:
    """Return the torch operator that a graph node calls, without its overload; empty if it calls none."""
    if callable(getattr(target, "name", None)):
        return str(target.name()).partition(".")[0]
    lowered = getattr(target, "func", None)  # a partial that holds the matched pattern
    return _LOWERED.get(getattr(lowered, "__name__", ""), "")
