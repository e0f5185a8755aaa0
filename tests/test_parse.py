"""What people type."""

from __future__ import annotations

import pytest

from bench.parse import lengths, names, whole_numbers
from bench.records import SpecError


def test_names() -> None:
    assert names(" torch-fp32, torch-bf16 ,,") == ["torch-fp32", "torch-bf16"]
    with pytest.raises(SpecError, match="one or several, separated by commas"):
        names(" , ")


def test_lengths_one_by_one_and_as_a_range() -> None:
    assert lengths("1, 2.5,5") == [1.0, 2.5, 5.0]
    assert lengths("1:20:5") == [1.0, 5.75, 10.5, 15.25, 20.0]  # steps of 19 / 4 = 4.75
    assert lengths("0.5,1:2:3") == [0.5, 1.0, 1.5, 2.0]
    assert lengths("1:2:4") == [1.0, 1.333, 1.667, 2.0]  # to the millisecond


@pytest.mark.parametrize(
    "text", ["one", "1;2", "5s", "1:20", "1:20:5:1", "20:1:5", "1:1:2", "1:2:1", "1:2:101", "1:2:x"]
)
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(SpecError) as e:
        lengths(text)
    assert f"got “{text}”" in str(e.value)
    assert "1:20:5" in str(e.value)


def test_whole_numbers() -> None:
    assert whole_numbers("4, 1,2", "Threads") == [4, 1, 2]
    with pytest.raises(SpecError, match=r"Threads: got “1\.5”\. Allowed: whole numbers"):
        whole_numbers("1.5", "Threads")
    with pytest.raises(SpecError):
        whole_numbers("", "Threads")
