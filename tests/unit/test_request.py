"""The request: the hosted endpoint's page, field by field, and clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflux.contract import (
    DEFAULT_CONTROL_IMAGE,
    SEED_COUNT,
    GenerationRequest,
    Lora,
    describe_allowed,
    parameter_table,
    parse_size,
)
from depthflux.errors import InvalidParameterError, MissingParameterError

#: name, required, default, lowest, highest: the endpoint's own page.
HOSTED_PAGE = [
    ("prompt", True, None, None, None),
    ("control_image", False, DEFAULT_CONTROL_IMAGE, None, None),
    ("control_scale", False, 1, 0, 2),
    ("seed", False, -1, -1, 9999999999),
    ("num_images", False, 1, 1, 4),
    ("size", False, "864*1636", None, None),
    ("num_inference_steps", False, 28, 1, 50),
    ("guidance_scale", False, 3.5, 1, 30),
    ("enable_safety_checker", False, True, None, None),
]
JSON_TYPES = {
    "prompt": "string",
    "control_image": "string",
    "control_scale": "number",
    "seed": "integer",
    "num_images": "integer",
    "size": "string",
    "num_inference_steps": "integer",
    "guidance_scale": "number",
    "enable_safety_checker": "boolean",
}


@pytest.mark.parametrize(
    ("name", "required", "default", "low", "high"), HOSTED_PAGE, ids=[p[0] for p in HOSTED_PAGE]
)
def test_the_json_schema_has_the_hosted_pages_type_default_and_range(
    name: str, required: bool, default: object, low: float | None, high: float | None
) -> None:
    schema = GenerationRequest.model_json_schema()

    entry = schema["properties"][name]
    assert entry["type"] == JSON_TYPES[name]
    assert (name in schema["required"]) == required
    assert entry.get("default") == default
    assert (entry.get("minimum"), entry.get("maximum")) == (low, high)
    assert entry["description"]


def test_every_addition_to_the_hosted_fields_is_optional_and_off() -> None:
    hosted = {entry[0] for entry in HOSTED_PAGE}
    request = GenerationRequest(prompt="x")

    additions = {name: value for name, value in request.fields().items() if name not in hosted}
    assert additions == {
        "preprocess_depth": True,
        "invert_depth": False,
        "depth_normalization": "minmax",
        "fit": "stretch",
        "only_depth_map": False,
        "output_format": "png",
        "enable_base64_output": False,
        "enable_sync_mode": False,
        "webhook_url": None,
        "loras": [],
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "100*100"}, "size='100*100' has width 100; allowed: width*height, each 512"),
        ({"size": "700*1636"}, "size='700*1636' has height 1636"),
        ({"size": "1636*864"}, "size='1636*864' has width 1636"),
        ({"size": "abc"}, "size='abc' is not of the form width*height"),
        ({"size": "1024x768"}, "write 1024*768"),
        ({"size": "٥١٢*٥١٢"}, "is not of the form"),
        ({"size": 512}, "size=512 is not allowed"),
        ({"seed": 10_000_000_000}, "seed=10000000000 is not allowed; allowed: a whole number"),
        ({"seed": -2}, "seed=-2"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": "7"}, "seed='7'"),
        ({"seed": True}, "seed=True"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 … from 1 to 50"),
        ({"num_inference_steps": 51}, "num_inference_steps=51"),
        ({"num_images": 5}, "num_images=5 … from 1 to 4"),
        ({"control_scale": float("nan")}, "control_scale=nan … a number from 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf"),
        ({"guidance_scale": 0.99}, "guidance_scale=0.99 … from 1 to 30"),
        ({"enable_safety_checker": "yes"}, "enable_safety_checker='yes' … true or false"),
        ({"only_depth_map": 1}, "only_depth_map=1 … true or false"),
        ({"fit": "crop"}, "fit='crop' … one of stretch, cover, contain"),
        ({"control_image": ""}, "control_image=''"),
        ({"loras": "ink"}, "loras='ink' is not allowed; allowed: at most 5 of {"),
        ({"loras": [{"path": "x"}] * 6}, "loras has 6 entries; allowed: at most 5 of {"),
        ({"loras": ["ink"]}, 'loras[0]=\'ink\' is not allowed; allowed: {"path": a name, "scale"'),
        ({"loras": [{"scale": 1}]}, "loras[0].path: is required"),
        ({"loras": [{"path": " "}]}, "loras[0].path=' ' is not allowed; allowed: a text of 1 to"),
        ({"loras": [{"path": "a" * 5000}]}, "loras[0].path='aaa … allowed: a text of 1 to 4096"),
        ({"loras": [{"path": "a\ud800"}]}, r"loras[0].path='a\ud800' is not allowed"),
        ({"loras": [{"path": 3}]}, "loras[0].path=3 is not allowed"),
        ({"loras": [{"path": "a", "scale": 4.5}]}, "loras[0].scale=4.5 … a number from -4 to 4"),
        ({"loras": [{"path": "a", "scale": True}]}, "loras[0].scale=True is not allowed"),
        ({"loras": [{"path": "a", "scale": "1"}]}, "loras[0].scale='1' is not allowed"),
        ({"loras": [{"path": "a", "scale": float("nan")}]}, "loras[0].scale=nan is not allowed"),
        ({"loras": [{"path": "a", "scal": 1}]}, "loras[0].scal: there is no such field; did you"),
        ({"loras": [{"path": "a", 7: 1}]}, "loras[0].7: there is no such field"),
        (
            {"loras": [{"path": "a"}, {"path": "b", "scale": 5}, {}]},
            "loras[1].scale=5 is not allowed … loras[2].path: is required",
        ),
        ({"invert_depth": True}, "only together with preprocess_depth=false"),
        ({"control_scal": 1}, "control_scal: there is no such field; did you mean control_scale?"),
        ({"zzz": 1}, "zzz: there is no such field; known are prompt"),
        ({"zz\x1b]0;owned\x07\u202e": 1}, r"'zz\x1b]0;owned\x07\u202e': there is no such field"),
        ({"self": 1}, "self: there is no such field"),
        ({"control_scale": 10**400}, "control_scale=a number of about 401 digits is not allowed"),
        ({"seed": 10**5000}, "seed=a number of about 5001 digits is not allowed"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_value_is_refused_with_field_value_and_what_is_allowed(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        GenerationRequest(prompt="x", **fields)

    assert all(part in str(caught.value) for part in message.split(" … "))
    assert caught.value.field == next(iter(fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{}, {"prompt": ""}, {"prompt": " \n"}], ids=str)
def test_a_missing_or_empty_prompt_has_an_error_of_its_own(fields: dict[str, str]) -> None:
    with pytest.raises(MissingParameterError, match="prompt"):
        GenerationRequest(**fields)


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(InvalidParameterError, match="surrogate") as caught:
        GenerationRequest(prompt="a \ud800 b")

    str(caught.value).encode()  # the message itself can be printed


def test_a_request_shown_in_a_terminal_is_short() -> None:
    assert len(repr(GenerationRequest(prompt="x", control_image="A" * 100_000))) < 1000


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidParameterError) as caught:
        GenerationRequest(
            prompt="x", seed=-5, num_images=9, size="1*1", invert_depth=True, sise="1"
        )

    assert len(caught.value.problems) == 5
    named = ("seed=-5", "num_images=9", "size='1*1' has width 1", "invert_depth", "sise")
    assert all(name in str(caught.value) for name in named)


def test_http_ignores_unknown_fields_and_refuses_bad_ones() -> None:
    assert GenerationRequest.from_http({"prompt": "x", "strength": 0.3}).prompt == "x"
    with pytest.raises(InvalidParameterError, match="num_images"):
        GenerationRequest.from_http({"prompt": "x", "num_images": 0})


def test_http_ignores_unknown_fields_of_a_lora_too() -> None:
    lora = {"path": "ink", "scale": 0.5, "force": True}

    assert GenerationRequest.from_http({"prompt": "x", "loras": [lora]}).fields()["loras"] == [
        {"path": "ink", "scale": 0.5}
    ]
    with pytest.raises(InvalidParameterError, match=r"loras\[0\]='ink'"):
        GenerationRequest.from_http({"prompt": "x", "loras": ["ink"]})


def test_loras_are_taken_as_tables_or_objects_with_scale_one_by_default() -> None:
    request = GenerationRequest(
        prompt="x", loras=[{"path": "ink"}, Lora(path="wash", scale=-4), {"path": "a", "scale": 4}]
    )

    assert request.loras == [
        Lora(path="ink", scale=1.0),
        Lora(path="wash", scale=-4.0),
        Lora(path="a", scale=4.0),
    ]
    assert GenerationRequest(**json.loads(json.dumps(request.fields()))).loras == request.loras


def test_a_lora_by_itself_is_refused_like_a_request() -> None:
    with pytest.raises(InvalidParameterError, match=r"^scale=9 is not allowed") as caught:
        Lora(path="ink", scale=9)

    assert (caught.value.field, caught.value.value) == ("scale", 9)


def test_the_json_schema_describes_a_lora() -> None:
    schema = GenerationRequest.model_json_schema()

    assert schema["properties"]["loras"]["maxItems"] == 5
    assert schema["properties"]["loras"]["items"] == {"$ref": "#/$defs/Lora"}
    lora = schema["$defs"]["Lora"]
    assert (lora["required"], lora["additionalProperties"]) == (["path"], False)
    assert lora["properties"]["path"]["type"] == "string"
    scale = lora["properties"]["scale"]
    assert (scale["minimum"], scale["maximum"], scale["default"]) == (-4, 4, 1.0)


def test_numpy_numbers_are_numbers() -> None:
    request = GenerationRequest(
        prompt="x",
        seed=np.int64(9_999_999_999),
        control_scale=np.float32(0.5),
        num_images=np.int8(2),
    )

    assert (request.seed, request.control_scale, request.num_images) == (9_999_999_999, 0.5, 2)
    json.dumps(request.fields())


@given(st.integers(512, 1536), st.integers(512, 1536))
def test_every_size_in_range_is_taken_as_it_is(width: int, height: int) -> None:
    assert parse_size(f"{width}*{height}") == (width, height)


def test_the_documented_default_is_taken_although_its_height_is_out_of_range() -> None:
    assert GenerationRequest(prompt="x").dimensions == (864, 1636)


@given(st.integers(0, SEED_COUNT - 1), st.integers(1, 4))
def test_picture_i_has_the_seed_plus_i_modulo_ten_to_the_ten(seed: int, count: int) -> None:
    request = GenerationRequest(prompt="x", seed=seed, num_images=count)

    assert request.picture_seeds() == [(seed + i) % 10**10 for i in range(count)]


@pytest.mark.parametrize("count", [1, 4])
def test_a_depth_map_alone_is_one_picture_whatever_is_asked_for_beside_it(count: int) -> None:
    request = GenerationRequest(prompt="x", seed=7, num_images=count, only_depth_map=True)

    assert (request.picture_count, request.picture_seeds()) == (1, [7])
    assert GenerationRequest(prompt="x", num_images=count).picture_count == count


def test_minus_one_draws_a_seed_and_a_given_one_stays() -> None:
    drawn = {GenerationRequest(prompt="x").with_seed_drawn().seed for _ in range(20)}

    assert len(drawn) > 1
    assert all(0 <= seed < SEED_COUNT for seed in drawn)
    assert GenerationRequest(prompt="x", seed=0).with_seed_drawn().seed == 0


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        GenerationRequest(prompt="x").seed = 3  # type: ignore[misc]


def test_the_parameter_table_names_every_field_with_its_allowed_values() -> None:
    table = parameter_table()

    for name in GenerationRequest.model_fields:
        assert f"| `{name}` |" in table
        assert describe_allowed(name).replace("*", r"\*") in table
