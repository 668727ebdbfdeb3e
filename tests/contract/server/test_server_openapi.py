"""The interface's description is complete, and says what the routes do."""

from __future__ import annotations

from typing import Any

import pytest

from depthflux.contract import GenerationRequest
from stand_in.running import SUBMIT, StandInServer


@pytest.fixture(scope="module")
def document(server: StandInServer) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_both_versions_have_the_same_routes(document: dict[str, Any]) -> None:
    v2, v3 = (
        {(method, path[7:]) for method, path, _ in operations(document) if path[:7] == prefix}
        for prefix in ("/api/v2", "/api/v3")
    )

    assert v2 == v3
    assert len(v3) >= 16


def test_every_operation_has_a_name_a_summary_and_its_refusals(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names))
    for _, path, operation in operations(document):
        assert operation["summary"]
        if path.startswith("/api/"):
            assert {"200", "4XX", "5XX"} <= set(operation["responses"]), path
            assert "422" not in operation["responses"]


def test_the_submission_s_body_is_the_declared_request(document: dict[str, Any]) -> None:
    body = document["paths"][SUBMIT]["post"]["requestBody"]
    schema = document["components"]["schemas"]["GenerationRequest"]

    assert body["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/GenerationRequest"
    }
    assert set(schema["properties"]) == set(GenerationRequest.model_fields)


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]

        assert target, reference


def test_keys_are_described_where_they_are_asked_for(
    document: dict[str, Any], guarded: StandInServer
) -> None:
    with_keys = guarded.client.get("/openapi.json").json()

    assert "security" not in document
    assert with_keys["security"] == [{"key": []}]
    open_routes = {
        path for _, path, operation in operations(with_keys) if operation.get("security") == []
    }
    assert open_routes == {
        "/livez",
        "/readyz",
        "/media/{name}",
        "/api/v2/media/uploads/{secret}",
        "/api/v3/media/uploads/{secret}",
    }


def test_no_page_that_loads_scripts_from_elsewhere_is_served(server: StandInServer) -> None:
    assert [server.client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
