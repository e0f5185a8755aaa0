"""Manifests: CSV, TSV or JSON lines with a path and a text per clip."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.datasets.folder import DatasetError, Listed, first_few, lines_of

PATH_COLUMNS = ("path", "file", "file_name", "audio", "audio_filepath")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
MANIFESTS = (".csv", ".tsv", ".jsonl")


def find_manifest(folder: Path) -> Path | None:
    """The manifest of a folder, or None. Raises DatasetError if several files may be the manifest."""
    tables = sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in MANIFESTS and not entry.name.startswith(".") and entry.is_file()
    )
    for suffix in MANIFESTS:
        if (manifest := folder / f"manifest{suffix}") in tables:
            return manifest
    if len(tables) > 1:
        raise DatasetError(
            f"{folder} holds {len(tables)} files that may be the manifest: {first_few(t.name for t in tables)}. Give "
            "the path of the one that is meant, or name it manifest.csv."
        )
    return tables[0] if tables else None


def read_manifest(file: Path, split: str) -> Iterator[Listed]:
    """Yield the clips that a manifest lists for a split. Raises DatasetError."""
    other_splits: set[str] = set()
    any_listed = False
    for number, record in _json_records(file) if file.suffix.lower() == ".jsonl" else _table_records(file):
        at = f"{file.name}, line {number}"
        path_column, text_column = (
            find_column(record, PATH_COLUMNS, "audio files", at),
            find_column(record, TEXT_COLUMNS, "texts", at),
        )
        if (row_split := record.get("split", split).strip()).casefold() != split.strip().casefold():
            other_splits.add(row_split)
            continue
        any_listed = True
        yield Listed(at, record[path_column], record[text_column])
    if other_splits and not any_listed:
        available = ", ".join(f"“{name}”" for name in sorted(other_splits)[:10])
        raise DatasetError(
            f"{file.name} has no split “{split}”. Those that are there: {available}. Choose one of them."
        )


def _table_records(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    # In a TSV a quote is mostly an ordinary character. Read as in CSV, a single one would swallow all that follows.
    is_tsv = file.suffix.lower() == ".tsv"
    rows = (
        csv.reader(lines_of(file), delimiter="\t", quoting=csv.QUOTE_NONE)
        if is_tsv
        else csv.reader(lines_of(file), strict=True, skipinitialspace=True)
    )
    header: list[str] = []
    try:
        for row in rows:
            cells = [_unquoted(cell.strip()) if is_tsv else cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = [cell.lower() for cell in cells]
                continue
            if any(cells[len(header) :]):
                raise DatasetError(
                    f"{file.name}, line {rows.line_num}: {len(cells)} cells under {len(header)} columns. "
                    + ("Allowed: no tab within a text." if is_tsv else "Put a text with commas into double quotes.")
                )
            yield rows.line_num, dict(itertools.zip_longest(header, cells[: len(header)], fillvalue=""))
    except csv.Error as e:
        raise DatasetError(
            f"{file.name}, line {rows.line_num}: this is no row of a table ({e}). Put a text with quotes or commas "
            "into double quotes, and double the quotes within."
        ) from e


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell.startswith('"') and cell.endswith('"')
    return cell[1:-1].replace('""', '"') if quoted else cell


def _json_records(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(lines_of(file), 1):
        if not line.strip():
            continue
        at = f"{file.name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DatasetError(
                f"{at}: not JSON ({getattr(e, 'msg', e)}). Allowed: one object a line, such as "
                '{"path": "a.wav", "text": "hello"}.'
            ) from e
        if not isinstance(record, dict):
            raise DatasetError(f"{at}: got {type(record).__name__}. Allowed: one object a line, with path and text.")
        cells = {key.strip().lower(): value for key, value in record.items()}
        for key in (*PATH_COLUMNS, *TEXT_COLUMNS, "split"):
            if isinstance(cells.get(key), dict | list | bool):
                raise DatasetError(f"{at}: “{key}” holds {type(cells[key]).__name__}. Allowed: a text.")
        yield number, {key: "" if value is None else str(value) for key, value in cells.items()}


def find_column(record: Mapping[str, Any], allowed: tuple[str, ...], what: str, at: str) -> str:
    """The first of the `allowed` columns that the record has. Raises DatasetError if none; `what` names them there."""
    for name in allowed:
        if name in record:
            return name
    raise DatasetError(
        f"{at}: there is no column of {what}; the columns are {first_few(record, 10)}. Allowed: "
        f"{', '.join(allowed)}. A .csv separates columns by commas, a .tsv by tabs."
    )
