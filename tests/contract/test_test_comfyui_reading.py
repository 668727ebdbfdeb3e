"""scripts/test-comfyui, as much of it as needs no ComfyUI: how it reads what one tells."""

from __future__ import annotations

import pytest

from comfyui_test.errors import CheckFailedError
from comfyui_test.messages import (
    Run,
    parse_message,
    parse_refusal,
    unexpected_tracebacks,
)
from comfyui_test.widgets import differences
from comfyui_test.workflows import (
    DEPTH_MAP,
    ENGINE,
    GENERATE,
    fed_by,
    fields_of,
    ids_of,
    is_link,
    pointed,
    read_workflows,
)
from depthflux.contract import GenerationRequest

# What ComfyUI tells ---------------------------------------------------------------------------


def test_a_run_is_read_from_its_messages_and_from_no_others() -> None:
    run = Run("a")

    for kind, data in [
        ("execution_start", {"prompt_id": "a"}),
        ("execution_cached", {"prompt_id": "a", "nodes": ["1"]}),
        ("executing", {"prompt_id": "a", "node": "2"}),
        ("progress", {"prompt_id": "a", "node": "2", "value": 3, "max": 28}),
        ("progress", {"prompt_id": "b", "node": "2", "value": 9, "max": 9}),
        ("executed", {"prompt_id": "a", "node": "3", "output": {"images": ["picture"]}}),
        ("executed", {"prompt_id": "a", "node": "4", "output": None}),
        ("execution_error", {"prompt_id": "b", "exception_message": "another's"}),
        ("execution_success", {"prompt_id": "a"}),
        ("executing", {"prompt_id": "a", "node": None}),
    ]:
        run.take(kind, data)

    assert run.end == "execution_success"
    assert run.cached == {"1"}
    assert run.executed == ["2"]
    assert run.progress == {"2": [(3, 28)]}
    assert run.outputs == {"3": {"images": ["picture"]}, "4": {}}
    run.require_success()


def test_a_run_that_failed_says_what_the_node_shows() -> None:
    run = Run("a")

    run.take("execution_error", {"prompt_id": "a", "exception_message": "no server.\n"})

    assert run.error_text() == "no server."
    with pytest.raises(CheckFailedError, match="it ended in execution_error: no server"):
        run.require_success()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "status"}', '{"type": 1, "data": 2}'])
def test_what_is_no_message_is_told(text: str) -> None:
    with pytest.raises(CheckFailedError, match="no message of ComfyUI"):
        parse_message(text)


def test_a_refusal_is_read_by_node() -> None:
    told = {"message": "Custom validation failed for node", "details": "size - size='1' is not"}
    document = {
        "error": {"type": "prompt_outputs_failed_validation"},
        "node_errors": {"2": {"class_type": GENERATE, "errors": [told]}},
    }

    assert parse_refusal(document).nodes == {
        "2": "Custom validation failed for node: size - size='1' is not"
    }
    assert parse_refusal({"error": "no prompt", "node_errors": {}}).nodes == {"": "no prompt"}


def test_tracebacks_are_told_unless_comfyui_has_announced_them() -> None:
    announced = (
        "got prompt\n!!! Exception during processing !!! no server\n"
        "Traceback (most recent call last):\n  File\nConnectionRefusedError: refused\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File\ndepthflux.errors.NoAnswerError: no server\n"
    )
    alone = "Traceback (most recent call last):\n  File\nValueError: ours\nExecuted\n"

    assert unexpected_tracebacks(announced) == []
    assert unexpected_tracebacks(alone) == ["ValueError: ours"]
    assert unexpected_tracebacks(announced + "Executed\n" + alone) == ["ValueError: ours"]


# The widgets ----------------------------------------------------------------------------------


def seed_widget(**changes: object) -> dict[str, object]:
    description = GenerationRequest.model_fields["seed"].description
    options = {
        "default": -1,
        "min": -1,
        "max": 9_999_999_999,
        "control_after_generate": True,
        "tooltip": description,
    }
    return {"input": {"optional": {"seed": ["INT", options | changes]}}}


def test_a_widget_as_the_contract_declares_it_differs_in_nothing() -> None:
    assert differences(seed_widget(), {"seed"}) == []


@pytest.mark.parametrize(
    ("info", "fields", "line"),
    [
        (seed_widget(max=2**32), {"seed"}, "seed: max is 4294967296 and not 9999999999"),
        (seed_widget(default=0), {"seed"}, "seed: default is 0 and not -1"),
        (seed_widget(), {"seed", "size"}, "size: has no widget"),
        (seed_widget(), set[str](), "seed: has a widget"),
        ({"input": {"required": {"fit": [["cover"], {}]}}}, {"fit"}, "fit: type is ['cover']"),
    ],
    ids=["range", "default", "missing", "too many", "choices"],
)
def test_a_widget_that_is_not_as_declared_is_told(
    info: dict[str, object], fields: set[str], line: str
) -> None:
    assert any(found.startswith(line) for found in differences(info, fields))


# The examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(read_workflows()))
def test_a_pointed_example_asks_the_engine_under_test_and_no_other(name: str) -> None:
    engine = {"profile": "auto", "address": "http://127.0.0.1:5"}

    workflow = pointed(read_workflows()[name], engine, "mine.png")

    assert [workflow[id]["inputs"]["image"] for id in ids_of(workflow, "LoadImage")] == ["mine.png"]
    for id in ids_of(workflow, ENGINE):
        assert workflow[id]["inputs"] == engine
    for id in ids_of(workflow, GENERATE) + ids_of(workflow, DEPTH_MAP):
        source, output = workflow[id]["inputs"]["engine"]
        assert (workflow[source]["class_type"], output) == (ENGINE, 0)


def test_the_examples_are_what_the_checks_look_for_in_them() -> None:
    workflows = read_workflows()

    generate = workflows["generate"]
    (id,) = ids_of(generate, GENERATE)
    GenerationRequest(**fields_of(generate, GENERATE))
    for kind, output in (("SaveImage", 0), ("PreviewImage", 1), ("PreviewAny", 2)):
        assert len(fed_by(generate, kind, id, output)) == 1
    assert len(ids_of(workflows["depth-map"], DEPTH_MAP)) == 1
    assert len(ids_of(workflows["two-engines"], ENGINE)) == 2


@pytest.mark.parametrize(
    ("value", "link"),
    [(["1", 0], True), ("1", False), ([], False), (["1", 0, 2], False), (1.0, False)],
)
def test_a_link_is_told_from_a_value(value: object, link: bool) -> None:
    assert is_link(value) is link
