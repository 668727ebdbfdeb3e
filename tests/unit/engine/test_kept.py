"""What is kept between requests: few values, those used last, and nothing that failed."""

from __future__ import annotations

import pytest

from depthflux.engine.kept import Kept


def test_a_value_is_made_once_for_its_key() -> None:
    kept: Kept[object] = Kept(2)

    first = kept.get("a", object)

    assert kept.get("a", object) is first
    assert kept.get("b", object) is not first


def test_the_value_not_used_for_longest_goes_first() -> None:
    kept: Kept[str] = Kept(2)
    for key in ("a", "b", "a", "c"):
        kept.get(key, lambda: "first")

    assert len(kept) == 2
    assert kept.get("a", lambda: "second") == "first"
    assert kept.get("b", lambda: "second") == "second"


def test_there_is_room_before_the_next_value_is_made() -> None:
    kept: Kept[int] = Kept(1)
    kept.get("a", lambda: 1)

    assert kept.get("b", lambda: len(kept)) == 0


def test_none_is_kept_where_none_is_to_be() -> None:
    kept: Kept[object] = Kept(0)

    assert kept.get("a", object) is not kept.get("a", object)
    assert len(kept) == 0


def test_what_could_not_be_made_is_tried_again() -> None:
    kept: Kept[float] = Kept(2)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 / 0)

    assert kept.get("a", lambda: 1.0) == 1.0


def test_clear_lets_go_of_everything() -> None:
    kept: Kept[str] = Kept(2)
    kept.get("a", lambda: "first")

    kept.clear()

    assert len(kept) == 0
    assert kept.get("a", lambda: "second") == "second"
