"""What declared fields take, in words, and what pydantic finds wrong with them, in our form.

Knows nothing of which fields there are.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError

from depthflux.errors import show, unknown_name_problem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def _whole_number(value: Any) -> Any:
    # JSON knows one kind of number, and some of its writers say 28.0 for 28.
    if isinstance(value, float) and value.is_integer():
        return int(value)
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
    annotation = _without_none(field.annotation)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(get_args(annotation))
    kind = _KINDS.get(get_origin(annotation) or annotation, "a text")
    low, high = field_range(field)
    if low is None:
        return kind
    return f"{kind} from {low}" if high is None else f"{kind} from {low} to {high}"


#: What a type is called.
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
}


def _without_none(annotation: Any) -> Any:
    """The type of an optional field's values; other types stay."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else annotation


def field_range(field: FieldInfo) -> tuple[float | None, float | None]:
    """The lowest and highest value of a numeric field, None where there is no limit."""
    low = next((m.ge for m in field.metadata if getattr(m, "ge", None) is not None), None)
    high = next((m.le for m in field.metadata if getattr(m, "le", None) is not None), None)
    return low, high


def _problem(name: str, value: object, allowed: str, *, absent: bool) -> str:
    if absent:
        return f"{name}: is required; allowed: {allowed}."
    return f"{name}={show(value)} is not allowed; allowed: {allowed}."
