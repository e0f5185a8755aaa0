"""Run scripts, each in a fork of one process that has imported what they import: that takes seconds, and each its own.

`python forked.py MODULE,... FOLDER...`: FOLDER/script.py runs in its folder, without Earbench on the path. What it
prints and how it ended lie beside it, and what its `model` makes of its `audio`, if it has them, in logits.npz.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

PRINTED, ERRORS, LOGITS = "printed.txt", "errors.txt", "logits.npz"


def main() -> None:
    """Run the scripts one after another; the exit code counts those that failed."""
    sys.path = [entry for entry in sys.path if not (Path(entry) / "forked.py").exists()]  # as for any script
    modules, *folders = sys.argv[1:]
    for module in modules.split(","):
        importlib.import_module(module)
    failed = 0
    for folder in folders:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            os._exit(_run(Path(folder)))
        failed += os.waitpid(pid, 0)[1] != 0
    sys.exit(failed)


def _run(folder: Path) -> int:
    os.chdir(folder)
    for number, name in ((1, PRINTED), (2, ERRORS)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        sys.modules["torch"].manual_seed(0)  # the same input every time
        exec(compile((folder / "script.py").read_text(), "script.py", "exec"), names)
        sys.stdout.flush()
        if {"model", "audio"} <= set(names):
            _save(names["model"], names["audio"])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def _save(model: Any, audio: Any) -> None:
    import numpy as np
    import torch

    with torch.inference_mode():
        outputs = model(audio)
    logits = getattr(outputs, "logits", None)
    arrays = {"audio": audio, "logits": outputs[0] if logits is None else logits}
    floats = {n: a.float().numpy() if isinstance(a, torch.Tensor) else np.asarray(a) for n, a in arrays.items()}
    np.savez(LOGITS, **floats)


if __name__ == "__main__":
    main()
