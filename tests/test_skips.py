"""A skip that is not on the list fails a run in CI, and only there; every skip is printed with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import skips
from conftest import made

from bench.core.paths import ROOT

SAMPLE = {
    "conftest.py": """
from pathlib import Path
from skips import Skips

def pytest_configure(config):
    config.pluginmanager.register(Skips(Path(__file__).with_name("allowed.txt")))
""",
    "allowed.txt": "# what a machine may lack\n\ntest_sample.py::test_voices* no such voices are packaged\n",
    "test_sample.py": """
import pytest

def test_that_runs():
    pass

@pytest.mark.parametrize("voice", ["one", "two"])
def test_voices(voice):
    pytest.skip("no voices here")
""",
    "test_other.py": """
import pytest

@pytest.mark.skipif(True, reason="no browser here")
def test_browser():
    pass

@pytest.mark.xfail(reason="not yet")
def test_that_is_expected_to_fail():
    assert False
""",
    "test_module.py": "import pytest\npytest.importorskip('no_such_package_here')\n",
}


def run(folder: Path, *tests: str, ci: str) -> tuple[int, str]:
    """The exit code and what is printed, with this repository's options and two processes, as `make test` has them."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"].split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-n", "2", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests"), "COLUMNS": "200"},
    )
    return done.returncode, " ".join(done.stdout.split())


def test_in_ci_a_skip_fails_unless_it_is_on_the_list(tmp_path: Path) -> None:
    made(tmp_path, SAMPLE)
    code, printed = run(tmp_path, ci="true")
    assert code == 1
    assert "test_other.py::test_browser was skipped (no browser here), which fails this run" in printed
    assert "test_module.py was skipped (could not import 'no_such_package_here'" in printed
    assert "allow it by a line in allowed.txt" in printed
    assert "test_voices[one] was skipped" not in printed and "expected_to_fail was skipped" not in printed
    code, printed = run(tmp_path, "test_sample.py", ci="true")
    assert code == 0 and "fails this run" not in printed
    assert "SKIPPED [2] test_sample.py:9: no voices here" in printed, "every reason is printed"


def test_elsewhere_every_skip_is_printed_and_none_fails(tmp_path: Path) -> None:
    made(tmp_path, SAMPLE)
    code, printed = run(tmp_path, ci="")
    assert code == 0 and "fails this run" not in printed
    for reason in ("no voices here", "no browser here", "could not import 'no_such_package_here'"):
        assert reason in printed


def test_a_line_without_a_reason_is_refused(tmp_path: Path) -> None:
    made(tmp_path, {"allowed.txt": "test_sample.py::test_voices*\n"})
    with pytest.raises(pytest.UsageError, match=r"allowed\.txt, line 1: got “test_sample.*and the reason why"):
        skips.read(tmp_path / "allowed.txt")


def test_the_list_names_tests_that_are_there() -> None:
    for allowed in skips.read(skips.ALLOWED):
        path, _, name = allowed.pattern.partition("::")
        assert f"def {name.rstrip('*')}" in (ROOT / path).read_text(), allowed.pattern
