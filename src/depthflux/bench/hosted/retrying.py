"""When a request is sent anew and after how long: as the official clients do, never paid twice.

Knows nothing of what is asked.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass

from depthflux.bench.hosted.errors import NoAnswerError, UnreachableError
from depthflux.bench.hosted.exchanges import Answer

#: The longest that a server's Retry-After is heeded, in seconds.
LONGEST_PAUSE_S = 60.0
#: Pause after the n-th failed connection: n times so many seconds.
_CONNECTION_PAUSE_S = 1.0
#: Statuses that may pass. Source: the official Python client from 1.0.14 on.
PASSING = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a kind of request is sent anew.

    Attributes:
        retries: how often at the most.
        statuses: after which answers.
        pause_s: after the n-th of them n times so many seconds, where no Retry-After says more.
        even_unanswered: whether also where it was sent and no answer came; never so for what costs.
        connection_retries: how often after connections that could not be made.
    """

    retries: int
    statuses: frozenset[int]
    pause_s: float
    even_unanswered: bool
    connection_retries: int = 5


#: What costs nothing to ask again: states, uploads, pictures.
FREELY = Rule(retries=5, statuses=PASSING, pause_s=1.0, even_unanswered=True)
#: Submissions, only where they surely were not taken. The lowest account's limit is 2 pictures a
#: minute, which eight pauses of together three minutes outlast.
SUBMISSIONS = Rule(retries=8, statuses=frozenset({429}), pause_s=5.0, even_unanswered=False)


def with_retries(
    ask: Callable[[int], Answer],
    rule: Rule,
    *,
    sleep: Callable[[float], None],
    wall: Callable[[], float] = time.time,
) -> Answer:
    """Ask until there is an answer that is not to be asked for again, or it was tried enough.

    Args:
        ask: asks once; given the attempt's number from 1.
        rule: when it is asked again.
        sleep: waits so many seconds.
        wall: seconds since 1970, for a Retry-After that is a date.

    Raises:
        UnreachableError, NoAnswerError: the last attempt's.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            answer = ask(attempt)
        except UnreachableError:
            if attempt > rule.connection_retries:
                raise
            pause_s = attempt * _CONNECTION_PAUSE_S
        except NoAnswerError:
            if not rule.even_unanswered or attempt > rule.retries:
                raise
            pause_s = attempt * rule.pause_s
        else:
            if answer.status not in rule.statuses or attempt > rule.retries:
                return answer
            said_s = _said_pause_s(answer.headers.get("retry-after", ""), wall())
            pause_s = attempt * rule.pause_s if said_s is None else said_s
        sleep(pause_s)


def _said_pause_s(text: str, now: float) -> float | None:
    """What a Retry-After says, in seconds from now, bounded; None where it says nothing."""
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), LONGEST_PAUSE_S)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(moment - now, 0.0), LONGEST_PAUSE_S)
