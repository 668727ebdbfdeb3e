"""The interface's description holds: generated requests, good and bad, are answered as it says.

schemathesis reads /openapi.json of a running server and sends it examples, boundary values and
random ones, one operation at a time, then chains of operations along the description's links. All
of its checks judge every answer. What no description can say is put into the requests by
`Run.prepare`, each thing with its reason; nothing is left out of what is judged.

DEPTHFLUX_EXAMPLES sets how many random requests an operation gets, and how many chains there are;
12, unless it is there.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.engine import events

from depthflux.server.names import KEY
from stand_in.running import PICTURE, SUBMIT, StandInServer

KEYS = ("first-key-0123456789", "second-key-0123456789")
EXAMPLES = int(os.environ.get("DEPTHFLUX_EXAMPLES", "12"))
CONFIG = f"""
seed = 20261130
continue-on-failure = true
suppress-health-check = ["all"]

# What earlier runs have found is no reason for this one to do something else.
[cache]
enabled = false

[generation]
deterministic = true
database = "none"
no-shrink = true
max-examples = {EXAMPLES}

# Most of what can be said is said here.
[[operations]]
include-name = "POST {SUBMIT}"
generation.max-examples = {3 * EXAMPLES}

# How the description says that something is wrong, or too long.
[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 413, 414, 415, 422, 431]

# A link makes whole again what was made wrong, as with the address of a ticket, and what is then
# accepted is said to be wrong. Wrong requests are the other phases' business.
[phases.stateful.generation]
mode = "positive"
max-examples = {EXAMPLES}
"""
#: Two users whose objects are not each other's.
USERS_CONFIG = """
[auth.wfc]
path = "{path}"
peers = ["first", "second"]
"""
#: The checks that there were when these tests were written: a new one is looked at, not missed.
KNOWN_CHECKS = {
    "allow_header_conformance",
    "content_type_conformance",
    # These two judge chains, so they speak in the tests of the links.
    "ensure_resource_availability",
    "use_after_free",
    # These three speak where there are keys: on the guarded server.
    "ignored_auth",
    "missing_required_header",
    "object_level_authorization",
    "negative_data_rejection",
    "not_a_server_error",
    "positive_data_acceptance",
    "response_headers_conformance",
    "response_schema_conformance",
    "status_code_conformance",
    "unsupported_method",
}


def encoded(format: str, level: int) -> bytes:
    """A picture of 2 x 2 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (level, level, level)).save(buffer, format=format)
    return buffer.getvalue()


FILES = [encoded(format, level) for format in ("PNG", "JPEG", "WebP") for level in (0, 200)]
#: Stands for the address of an upload, which is known once the server runs.
UPLOADED = "http://127.0.0.1:9/uploaded.png"
#: Nothing listens there, and a worker may not ask there either.
NOWHERE = "http://127.0.0.1:9/nothing.png"

schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(f).decode() for f in FILES]))
schemathesis.openapi.format("binary", st.just(FILES[0]))
schemathesis.openapi.format("uri", st.sampled_from([UPLOADED, NOWHERE]))
for _kind in ("image/png", "image/jpeg", "image/webp"):
    schemathesis.openapi.media_type(_kind, st.just(FILES[0]))


class Run:
    """What schemathesis did with a server, and what came of it.

    Attributes:
        server: the server.
        accepted: ids of predictions that it has taken.
        statuses: answers, by operation and HTTP status.
        judged: how often a check has judged an answer good, by the check's name.
        phases: how many requests each phase has sent.
        problems: everything else, with the request to repeat it.
    """

    def __init__(self, server: StandInServer, config: str) -> None:
        self.server = server
        self.accepted: list[str] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.judged: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self.problems: list[str] = []
        self._uploaded = self._upload()
        RUNS[server.address] = self
        self._ask(schemathesis.Config.from_str(config))

    def _upload(self) -> str:
        answer = self.server.client.post("/api/v3/media/upload/binary", files={"file": FILES[0]})
        address: str = answer.json()["data"]["download_url"]
        return address

    def _ask(self, config: schemathesis.Config) -> None:
        """Send everything that the description gives rise to, in four phases."""
        url = f"{self.server.address}/openapi.json"
        # The two versions are alike (test_server_openapi.py), so one of them is enough.
        schema = schemathesis.openapi.from_url(url, config=config).exclude(path_regex="^/api/v2/")
        for event in schemathesis.engine.from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                self._note(event)
            elif isinstance(event, events.NonFatalError | events.FatalError):
                self.problems.append(str(getattr(event, "value", event)))

    def _note(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        for checks in recorder.checks.values():
            for check in checks:
                if check.failure_info is None:
                    self.judged[check.name] += 1
                else:
                    info = check.failure_info
                    self.problems.append(f"{check.name}: {info.failure}\n{info.code_sample}")
        for id, interaction in recorder.interactions.items():
            label = recorder.cases[id].value.operation.label
            self.phases[event.phase.value] += 1
            if interaction.response is not None:
                self.statuses[label, interaction.response.status_code] += 1

    def prepare(self, case: Any) -> None:
        """Put into a request what no description can say."""
        body = case.body
        if case.path.endswith(SUBMIT) and isinstance(body, dict):
            # Without one, the documented default would be fetched from the Internet.
            body.setdefault("control_image", PICTURE)
            if body["control_image"] == UPLOADED:
                body["control_image"] = self._uploaded
            if KEY.fullmatch(str(case.headers.get("Idempotency-Key"))):
                # Else the generator's favourite comes with another body every time, which is 422.
                said = json.dumps([body, case.query], sort_keys=True, default=str).encode()
                case.headers["Idempotency-Key"] = hashlib.sha256(said).hexdigest()
        if case.meta is None or case.meta.generation.mode.is_negative:
            return
        if case.path.endswith(SUBMIT):
            _make_acceptable(case, body)
        if case.path.endswith("/media/uploads"):
            # The bytes come in another request, and have to be as many as were promised.
            body["size"] = len(FILES[0])


def _make_acceptable(case: Any, body: dict[str, Any]) -> None:
    # Only names of files in the operator's folder are taken, and there are none.
    body.pop("loras", None)
    # A rule between the body and the query.
    if body.get("enable_base64_output"):
        case.query.pop("webhook", None)
    if body["control_image"].startswith("data:"):
        body["control_image"] = f"data:image/png;base64,{PICTURE}"


#: By address, since a hook is schemathesis' and knows no test.
RUNS: dict[str, Run] = {}


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    RUNS[case.operation.base_url.rstrip("/")].prepare(case)


@schemathesis.hook
def after_call(_context: Any, case: Any, response: Any) -> None:
    if case.path.endswith(SUBMIT) and response.status_code == 200:
        id = response.json()["data"]["id"]
        RUNS[case.operation.base_url.rstrip("/")].accepted.append(id)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    with ExitStack() as stack:

        def begin(keys: tuple[str, ...] = ()) -> Run:
            server = StandInServer(
                tmp_path_factory.mktemp("described") / "data",
                stand_in={"seconds": 0.01},
                keys=keys,
                sync_timeout_s=1,
                # Neither is to speak here: what is refused for being too much proves nothing.
                key_requests_per_minute=0,
                max_queued=100_000,
            )
            stack.enter_context(server)
            return Run(server, CONFIG + (_with_users(server.data_dir.parent, keys) if keys else ""))

        yield begin


def _with_users(folder: Path, keys: tuple[str, ...]) -> str:
    """What the configuration says beside the rest where there are keys."""
    users = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {key}"}]}
        for name, key in zip(("first", "second"), keys, strict=True)
    ]
    path = folder / "users.json"
    path.write_text(json.dumps({"auth": users}))
    return USERS_CONFIG.format(path=path)


@pytest.fixture(scope="module")
def without_keys(run: Callable[..., Run]) -> Run:
    return run()


@pytest.fixture(scope="module")
def with_keys(run: Callable[..., Run]) -> Run:
    return run(KEYS)


def test_no_check_is_left_out() -> None:
    load_all_checks()

    assert set(CHECKS.get_all_names()) == KNOWN_CHECKS


@pytest.mark.parametrize("name", ["without_keys", "with_keys"])
def test_each_operation_answers_as_described(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)

    assert run.problems == []
    assert set(run.judged) >= KNOWN_CHECKS
    assert set(run.phases) == {"examples", "coverage", "fuzzing", "stateful"}


def test_the_generated_requests_reach_every_operation(without_keys: Run) -> None:
    """A run that meets refusals alone would prove nothing."""
    paths = without_keys.server.client.get("/openapi.json").json()["paths"]
    labels = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if not path.startswith("/api/v2/")
    }

    assert {label for label in labels if without_keys.statuses[label, 200]} == labels


def test_predictions_are_accepted_and_end(without_keys: Run) -> None:
    server = without_keys.server
    for id in set(without_keys.accepted):
        # Some were deleted along a link.
        if server.client.get(f"/api/v3/predictions/{id}").status_code == 200:
            server.wait(id)

    counters = server.client.get("/metrics").text
    ended = {
        status: float(count)
        for status, count in re.findall(
            r'^depthflux_predictions_ended_total{status="(\w+)"} (\S+)$', counters, flags=re.M
        )
    }

    assert ended["completed"] >= 8


def test_with_keys_the_checks_that_need_them_have_judged(with_keys: Run) -> None:
    answered = {label for label, status in with_keys.statuses if status == 200}
    refused = {label for label, status in with_keys.statuses if status == 401}

    assert len(answered) >= 20
    assert refused
