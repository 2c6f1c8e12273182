from __future__ import annotations

from lpsteps.report.numbering import Numbered


def test_equal_data_has_one_number() -> None:
    numbered = Numbered()
    things = [{"a": 1, "b": [2]}, "x", {"b": [2], "a": 1}]
    assert [numbered.number_of(thing) for thing in things] == [0, 1, 0]
    assert numbered.entries == things[:2]


def test_the_first_entry_of_a_key_is_kept() -> None:
    numbered = Numbered()
    assert [numbered.number(("k", 1), "first"), numbered.number(("k", 1), "second")] == [0, 0]
    assert numbered.entries == ["first"]
