"""The declared defences: each can be taken away, has tests, and stands in docs/security.md.

That its tests fail without it is seen by scripts/undefended, which takes minutes; here it is tried
with one, and with a test that shows nothing.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from defences.declared import ATTACKS, ROOT, Defence, Edit, defences
from defences.trial import check_edits, try_without

DECLARED = defences()
SURPRISE = "tests/contract/server/test_server_surprises.py"
OPAQUE = Defence(
    attack=16,
    promise="A surprise names a word to find it by, never itself.",
    edits=(
        Edit(
            file="src/depthflux/server/app.py",
            present="something went wrong inside; the server's log names error {word}.",
            absent="{error!r}; the server's log names error {word}.",
        ),
    ),
    tests=(f"{SURPRISE}::test_a_surprise_is_a_refusal_with_a_word_for_the_log_and_counted",),
)


def test_every_attack_has_a_defence() -> None:
    assert {defence.attack for defence in DECLARED} == set(ATTACKS)


def test_no_promise_is_made_twice() -> None:
    promises = [defence.promise for defence in DECLARED]

    assert len(set(promises)) == len(promises)


@pytest.mark.parametrize("defence", DECLARED, ids=lambda one: f"{one.attack}-{one.promise[:50]}")
def test_a_defence_can_be_taken_away(defence: Defence) -> None:
    check_edits(defence)


@pytest.mark.parametrize("defence", DECLARED, ids=lambda one: f"{one.attack}-{one.promise[:50]}")
def test_a_defence_has_tests_that_are_there(defence: Defence) -> None:
    for test in defence.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

        assert name.partition("[")[0].rpartition("::")[2] in functions, test
    assert defence.tests


def test_a_defence_s_tests_fail_without_it() -> None:
    assert try_without(OPAQUE).problem == ""


def test_a_test_that_passes_without_the_defence_shows_nothing() -> None:
    other = f"{SURPRISE}::test_a_client_that_hangs_up_is_no_surprise"

    verdict = try_without(dataclasses.replace(OPAQUE, tests=(other,)))

    assert verdict.problem == f"{other} passes"


def test_a_copy_that_does_not_even_start_shows_nothing() -> None:
    edit = dataclasses.replace(OPAQUE.edits[0], absent='")\nraise SystemExit("')

    verdict = try_without(dataclasses.replace(OPAQUE, edits=(edit,)))

    assert verdict.problem != ""


def test_a_defence_that_is_not_in_the_source_is_noticed() -> None:
    edit = dataclasses.replace(OPAQUE.edits[0], present="what nobody has written")

    with pytest.raises(ValueError, match="occurs 0 times"):
        check_edits(dataclasses.replace(OPAQUE, edits=(edit,)))


def test_nothing_but_the_source_is_ever_changed() -> None:
    edit = Edit(file="Dockerfile.cuda", present="FROM", absent="")

    with pytest.raises(ValueError, match="only lines in src"):
        try_without(dataclasses.replace(OPAQUE, edits=(edit,)))


def test_an_unknown_attack_or_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "99.toml").write_text("[[defence]]\n")

    with pytest.raises(ValueError, match="no attack 99"):
        defences(tmp_path)
