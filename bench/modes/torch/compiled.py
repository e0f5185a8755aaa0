"""What torch.compile asks for and tells: a C++ compiler, a cache, and the 8-bit operators in the compiled graph."""

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
# What inductor puts into a graph for one of torch's operators when it has settled how to call it.
_LOWERED = {
    "qlinear": "onednn::qlinear_pointwise",
    "qlinear_binary": "onednn::qlinear_pointwise",
    "qconv": "onednn::qconv_pointwise",
    "qconv_binary": "onednn::qconv2d_pointwise",
}

_INSTALL = "xcode-select --install" if sys.platform == "darwin" else "apt-get install g++"


def compiler() -> str | None:
    """The C++ compiler that there is: what CXX names, or the first of the usual ones."""
    return next((name for name in (os.environ.get("CXX"), *_COMPILERS) if name and shutil.which(name)), None)


def check() -> str:
    """Raises RuntimeError where compiling can't work, with the reason and the fix."""
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
    """A module compiled with dynamic lengths, and the 8-bit operators that its graph calls, by module.

    One compilation serves the lengths at batch 1, and another one every larger batch. A few more are made for what is
    short: below 20480 elements torch takes another convolution (with 512 channels that is below half a second).
    """

    def __init__(self, module: nn.Module, network: Network, placement: Placement) -> None:
        """Compiles at the first pass, not here. What a compiler made is kept in the cache folder for the next time."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(paths.cache() / "inductor")  # torch may have set its own already
        os.environ.setdefault("CXX", compiler() or "g++")
        super().__init__(module, network, placement)
        import torch

        self.ran: dict[str, set[str]] = {}
        tensors = itertools.chain(module.named_parameters(), module.named_buffers())
        self._owners = {tensor.data_ptr(): name.rpartition(".")[0] for name, tensor in tensors}
        config: Any = importlib.import_module("torch._inductor.config")
        # For the whole process, since tracing asks too: weights are constants, so that they can be packed for 8 bits.
        config.freezing = True
        config.fx_graph_cache = False  # packed weights can't be kept; what the C++ compiler made is
        config.compile_threads = 1  # no processes that outlive this one
        config.post_grad_custom_post_pass = self._note
        self._compiled = torch.compile(engine.tensors_alone(module, network), dynamic=True)

    def start(self) -> Callable[[Feed], Feed]:
        """See Opened; there is no state."""
        return self._run

    def _run(self, feed: Feed) -> Feed:
        import torch

        with torch.no_grad():
            outputs = self._compiled(*(torch.from_numpy(feed[port.name]) for port in self.network.inputs))
            return {name: x.numpy() for name, x in engine.by_name(outputs, self.network.outputs).items()}

    def _note(self, graph: Any) -> None:
        """Called with every graph that is compiled, after all else was done to it.

        A product that was fused with what follows is named after that, so its layer is found by the tensors it holds.
        """
        for node in graph.nodes:
            name = _operator(node.target)
            if name in engine.INT8_OPERATORS:
                held = [getattr(graph.owning_module, n.target) for n in node.all_input_nodes if n.op == "get_attr"]
                for owner in {self._owners.get(t.data_ptr()) for t in held if not t.is_mkldnn} - {None}:
                    self.ran.setdefault(str(owner), set()).add(name)


def _operator(target: Any) -> str:
    """The torch operator that a node of a graph calls, without its overload; empty if it is none."""
    if callable(getattr(target, "name", None)):
        return str(target.name()).partition(".")[0]
    lowered = getattr(target, "func", None)  # a partial, with the match that it came from
    return _LOWERED.get(getattr(lowered, "__name__", ""), "")
