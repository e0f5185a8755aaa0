"""README and docs: what they say of the code is true, and links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer
from click import Command, Context
from documents import PAGES, anchors, links

from bench import families, modes
from bench.cli import app
from bench.core.paths import ROOT

DEVELOPMENT = (ROOT / "docs" / "development.md").read_text()


def purpose(package: Path) -> str:
    """The first sentences of a package's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert docstring, package
    return " ".join(docstring.split())


def test_the_list_of_packages_is_what_is_there() -> None:
    listed = dict(re.findall(r"^\| `bench/(\w+)` \| (.+?) \|$", DEVELOPMENT, re.MULTILINE))
    assert set(listed) == {p.parent.name for p in (ROOT / "bench").glob("*/__init__.py")}
    for name, text in listed.items():
        assert purpose(ROOT / "bench" / name).startswith(text), name


def test_the_list_is_in_the_order_of_the_layers() -> None:
    listed = re.findall(r"^\| `bench/(\w+)` \|", DEVELOPMENT, re.MULTILINE)
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    assert listed == re.findall(r"\w+", contract)


@pytest.mark.parametrize("path", re.findall(r"`((?:bench|tests|docs)/[a-z_0-9/.]+)`", DEVELOPMENT))
def test_what_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_what_a_family_must_define_is_what_the_contract_asks_for() -> None:
    table = DEVELOPMENT.partition("What a family must define")[2].partition("\n- ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    abstract = families.family.Family.__abstractmethods__  # type: ignore[attr-defined]
    assert abstract <= named and all(hasattr(families.families()["wav2vec2"], name) for name in named)


def test_the_example_of_a_mode_is_one() -> None:
    code = re.findall(r"```python\n(.*?)```", DEVELOPMENT, re.DOTALL)[0]
    namespace: dict[str, object] = {}
    exec(compile(code, "docs/development.md", "exec"), namespace)
    assert isinstance(namespace["MODE"], modes.mode.Mode)  # type: ignore[attr-defined]


def test_every_option_of_a_benchmark_is_in_the_table() -> None:
    table = (ROOT / "docs" / "command-line.md").read_text().partition("## Benchmark")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {option for cell in cells for option in re.findall(r"`(--[\w-]+)`", cell)}
    command = typer.main.get_command(app.app).get_command(Context(Command("bench")), "run")  # type: ignore[attr-defined]
    assert named == {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = ROOT / "README.md"
    linked = {(readme.parent / link.partition("#")[0]).resolve() for link in links(readme)}
    pages = set((ROOT / "docs").glob("*.md"))
    for page in linked & pages:
        linked |= {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
    assert pages <= linked


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60


def test_every_mode_is_described_and_measured() -> None:
    for page in ("modes.md", "figures.md"):
        rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        assert list(modes.modes()) == list(dict.fromkeys(rows)), page
