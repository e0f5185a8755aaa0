"""What people type."""

from __future__ import annotations

import pytest

from bench.core.lists import names, placements, sizes, whole_numbers
from bench.core.specs import LENGTH, Axis, Placement, SpecError


def test_names() -> None:
    assert names(" torch-fp32, torch-bf16 ,,") == ["torch-fp32", "torch-bf16"]
    with pytest.raises(SpecError, match="one or several, separated by commas"):
        names(" , ")


def test_lengths_one_by_one_and_as_a_range() -> None:
    assert sizes("1, 2.5,5", LENGTH) == [1.0, 2.5, 5.0]
    assert sizes("1:20:5", LENGTH) == [1.0, 5.75, 10.5, 15.25, 20.0]  # steps of 19 / 4 = 4.75
    assert sizes("0.5,1:2:3", LENGTH) == [0.5, 1.0, 1.5, 2.0]
    assert sizes("1:2:4", LENGTH) == [1.0, 1.333, 1.667, 2.0]  # to the millisecond


@pytest.mark.parametrize(
    "text", ["one", "1;2", "5s", "1:20", "1:20:5:1", "20:1:5", "1:1:2", "1:2:1", "1:2:101", "1:2:x"]
)
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(SpecError) as e:
        sizes(text, LENGTH)
    assert f"got “{text}”" in str(e.value)
    assert "1:20:5" in str(e.value)


def test_sizes_are_named_as_their_axis_is() -> None:
    side = Axis("side", "px", "Image side", 32, 1024, (224.0,), (224.0, 384.0))
    assert sizes("224,256:512:2", side) == [224.0, 256.0, 512.0]
    with pytest.raises(SpecError) as e:
        sizes("224,big", side)
    assert str(e.value).startswith("Image side: got “big”. Allowed: pixels separated by commas")
    with pytest.raises(SpecError, match="Input length: nothing was given"):
        sizes(" ,", LENGTH)


def test_placements() -> None:
    assert placements("4, cpu/2") == [Placement("cpu", 4), Placement("cpu", 2)]
    for text in ("two", "1,cpu/", ""):
        with pytest.raises(SpecError, match=r"^Threads: "):
            placements(text)
    with pytest.raises(SpecError, match=r"got “1,1\.5”\. Allowed: whole numbers .* or placements such as cpu/2\."):
        placements("1,1.5")


def test_whole_numbers() -> None:
    assert whole_numbers("4, 1,2", "Threads") == [4, 1, 2]
    with pytest.raises(SpecError, match=r"Threads: got “1\.5”\. Allowed: whole numbers"):
        whole_numbers("1.5", "Threads")
    with pytest.raises(SpecError):
        whole_numbers("", "Threads")
