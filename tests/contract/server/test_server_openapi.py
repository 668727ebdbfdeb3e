"""The interface's description is complete, and says what the routes do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from depthflux.contract import GenerationRequest
from depthflux.contract.request import DEFAULT_SIZE, MAX_SIDE, MIN_SIDE
from depthflux.server.request_schema import request_schema
from depthflux.server.settings import ServerSettings
from stand_in.running import PICTURE, SUBMIT, StandInServer


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


def test_every_operation_has_a_name_and_words(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in document["tags"]}
    for _, path, operation in operations(document):
        assert operation["summary"], path
        assert operation["description"], path
        assert set(operation["tags"]) <= tags, path
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter)
        assert operation["responses"]["200"]["description"] != "Successful Response", path


def test_every_operation_lists_what_it_may_refuse_by_exact_status(
    document: dict[str, Any], guarded: StandInServer
) -> None:
    with_keys = guarded.client.get("/openapi.json").json()

    always = {"200", "400", "403", "408", "414", "421", "431", "500", "503"}
    for _, path, operation in operations(document):
        answers = set(operation["responses"])
        assert always <= answers, path
        assert answers <= always | {"404", "413", "415", "422", "429"}, path
        assert ("404" in answers) is ("{" in path), path
        assert ("413" in answers) is ("requestBody" in operation), path
    for _, path, operation in operations(with_keys):
        needs_key = operation.get("security") != []
        assert ("401" in operation["responses"]) is needs_key, path


def test_a_submission_s_refusals_are_those_that_it_gives(document: dict[str, Any]) -> None:
    answers = document["paths"][SUBMIT]["post"]["responses"]

    assert {"413", "415", "422", "429"} <= set(answers)
    refused = document["components"]["responses"]
    assert "Retry-After" in refused["TooManyRequests"]["headers"]
    assert "WWW-Authenticate" in refused["Unauthorized"]["headers"]


def test_no_answer_may_hold_null(document: dict[str, Any]) -> None:
    prediction = document["components"]["schemas"]["ServedPrediction"]

    assert {"type": "null"} not in [
        kind for field in prediction["properties"].values() for kind in field.get("anyOf", [])
    ]


def test_every_link_leads_to_an_operation_by_one_of_its_parameters(
    document: dict[str, Any],
) -> None:
    by_id = {operation["operationId"]: operation for _, _, operation in operations(document)}
    links = [
        (path, link)
        for _, path, operation in operations(document)
        for link in operation["responses"]["200"].get("links", {}).values()
    ]

    assert len(links) == 2 * 20
    for path, link in links:
        target = by_id[link["operationId"]]
        (name,) = link["parameters"]
        assert name in {parameter["name"] for parameter in target["parameters"]}
        # A client of one version stays with it; pictures have none.
        assert path[:8] in link["operationId"].replace("_", "/") or "media" in link["operationId"]


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_an_address_answers_another_method_with_those_it_takes(
    server: StandInServer, document: dict[str, Any], version: str
) -> None:
    for path, methods in document["paths"].items():
        if not path.startswith(f"/api/{version}/"):
            continue
        answer = server.client.options(re.sub(r"{\w+}", "0" * 32, path))

        assert answer.status_code == 405, path
        assert answer.headers["allow"].split(", ") == sorted(m.upper() for m in methods), path


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_the_address_that_deletes_several_is_no_prediction(
    server: StandInServer, method: str
) -> None:
    answer = server.client.request(method, "/api/v3/predictions/delete")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_the_size_s_pattern_takes_what_the_contract_takes(document: dict[str, Any]) -> None:
    pattern = document["components"]["schemas"]["GenerationRequest"]["properties"]["size"][
        "pattern"
    ]

    for side in (*range(0, 2000), 10_000, 51_200):
        for size in (f"{side}*512", f"1536*{side}"):
            assert (re.search(pattern, size) is not None) is (MIN_SIDE <= side <= MAX_SIDE), size
    assert re.search(pattern, DEFAULT_SIZE)


def test_the_example_is_a_submission_that_is_taken(
    server: StandInServer, document: dict[str, Any]
) -> None:
    (example,) = document["components"]["schemas"]["GenerationRequest"]["examples"]

    answer = server.client.post(SUBMIT, json=example)

    assert server.wait(answer.json()["data"]["id"])["status"] == "completed"


def test_limits_that_the_operator_has_lowered_are_the_described_ones() -> None:
    settings = ServerSettings(max_images=2, max_steps=10)

    fields = request_schema(settings)["properties"]

    assert (fields["num_images"]["maximum"], fields["num_inference_steps"]["maximum"]) == (2, 10)


def test_numbers_may_be_written_as_json_s_other_writers_do(server: StandInServer) -> None:
    data = server.submit(num_inference_steps=4.0, seed=7.0)

    (item, *_) = server.client.get("/api/v3/predictions?page=1&page_size=1").json()["data"]["items"]
    assert (item["id"], item["input"]["seed"]) == (data["id"], 7)
    assert item["input"]["num_inference_steps"] == 4


def test_a_list_can_be_asked_for_by_time_in_the_query(server: StandInServer) -> None:
    server.submit()
    ask = "/api/v3/predictions?created_before="

    before, after = (
        server.client.get(f"{ask}{year}-01-01T00:00:00Z").json()["data"]["total"]
        for year in (2020, 2999)
    )

    assert before == 0
    assert after >= 1


@pytest.mark.parametrize("query", ["page=0", "page=one", "page_size=101", "page=1.0", "status=x"])
def test_a_list_s_query_is_judged_as_its_body_is(server: StandInServer, query: str) -> None:
    answer = server.client.get(f"/api/v3/predictions?{query}")

    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["message"]


def test_a_webhook_in_the_body_is_judged_even_where_the_query_s_wins(
    server: StandInServer,
) -> None:
    body = {"prompt": "paint", "control_image": PICTURE, "webhook_url": "ftp://example.com/"}

    answer = server.client.post(f"{SUBMIT}?webhook=http://127.0.0.1:9/", json=body)

    assert answer.status_code == 400


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
