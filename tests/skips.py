"""Skips that nobody expects fail a run in CI (CI=true), since a test that is skipped covers nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


@dataclass(frozen=True)
class Allowed:
    """A line of the list: a pattern of test ids, and why they may be skipped."""

    pattern: str
    reason: str


def read(file: Path) -> list[Allowed]:
    """The list: `PATTERN REASON` on each line; empty lines and those that begin with # are left out."""
    allowed = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.strip().partition(" ")
            if not reason.strip():
                raise pytest.UsageError(
                    f"{file.name}, line {number}: got “{line}”; allowed: the pattern of a test id, a space, and the "
                    "reason why such tests may be skipped."
                )
            allowed.append(Allowed(pattern, reason.strip()))
    return allowed


class Skips:
    """Collects what is skipped; with xdist, in the process that gets all reports."""

    def __init__(self, file: Path = ALLOWED) -> None:
        self.file, self.allowed = file, read(file)
        self.skipped: dict[str, str] = {}  # test id -> reason

    def unexpected(self) -> dict[str, str]:
        """Those that no pattern allows."""
        return {
            test: reason
            for test, reason in self.skipped.items()
            if not any(fnmatchcase(test, allowed.pattern) for allowed in self.allowed)
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if in_ci() and self.unexpected() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not in_ci():
            return
        for test, reason in self.unexpected().items():
            terminalreporter.write_line(
                f"{test} was skipped ({reason}), which fails this run, since CI is set. Make it run here, or allow it "
                f"by a line in {self.file.name}: its id or a pattern, a space, and why.",
                red=True,
            )


def in_ci() -> bool:
    """Whether the environment says that this is a run of continuous integration."""
    return os.environ.get("CI", "").lower() in ("1", "true")
