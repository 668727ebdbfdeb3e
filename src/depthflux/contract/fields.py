"""What declared fields take, in words, and what pydantic finds wrong with them, in our form.

Knows nothing of which fields there are.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError

from depthflux.errors import show, unknown_name_problem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def _whole_number(value: Any) -> Any:
    # numpy's integers have no common base with int; bool has, and is no number a caller means.
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return operator.index(value) if is_whole else value


def _real_number(value: Any) -> Any:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        return float(value) if is_real else value
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
RealNumber = Annotated[float, BeforeValidator(_real_number)]


class Finding(NamedTuple):
    """What is wrong with one field.

    Attributes:
        name: the field's.
        problem: one line: the value got and what is allowed.
        allowed: what may be given instead, in words.
    """

    name: str
    problem: str
    allowed: str


def findings(
    error: ValidationError, model: type[BaseModel], fields: Mapping[str, Any]
) -> list[Finding]:
    """Everything that pydantic finds wrong, each finding once.

    Args:
        error: pydantic's.
        model: whose fields they are.
        fields: what was given for them.
    """
    found: dict[str, Finding] = {}
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            known = list(model.model_fields)
            problem, allowed = unknown_name_problem(name, known), ", ".join(known)
        else:
            allowed = describe_field(model.model_fields[name])
            problem = _problem(name, fields.get(name), allowed, absent=name not in fields)
            # Our own validators say what is wrong themselves, where there is more to say.
            problem = str(detail.get("ctx", {}).get("error") or "") or problem
        found.setdefault(problem, Finding(name, problem, allowed))
    return list(found.values())


def describe_field(field: FieldInfo) -> str:
    """What a field takes, in words, derived from its declaration."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "allowed" in extra:
        return str(extra["allowed"])
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    low, high = field_range(field)
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(
        field.annotation if isinstance(field.annotation, type) else str, "a text"
    )
    return kind if low is None else f"{kind} from {low} to {high}"


def field_range(field: FieldInfo) -> tuple[float | None, float | None]:
    """The lowest and highest value of a numeric field, None where there is no limit."""
    low = next((m.ge for m in field.metadata if getattr(m, "ge", None) is not None), None)
    high = next((m.le for m in field.metadata if getattr(m, "le", None) is not None), None)
    return low, high


def _problem(name: str, value: object, allowed: str, *, absent: bool) -> str:
    if absent:
        return f"{name}: is required; allowed: {allowed}."
    return f"{name}={show(value)} is not allowed; allowed: {allowed}."
