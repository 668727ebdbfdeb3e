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

#: The least and the longest that a server's Retry-After is heeded, in seconds: after "0" all
#: retries would be gone before anything can have passed.
LEAST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
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
        connection_retries: how often after connections that could not be made, which are counted
            apart.
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


class Retries:
    """Asks until there is an answer that is not to be asked for again, or it was tried enough."""

    def __init__(
        self, *, sleep: Callable[[float], None], wall: Callable[[], float] = time.time
    ) -> None:
        """Ask nobody yet.

        Args:
            sleep: waits so many seconds; may raise to give up.
            wall: seconds since 1970, for a Retry-After that is a date.
        """
        self._sleep, self._wall = sleep, wall

    def answer(
        self,
        ask: Callable[[int], Answer],
        rule: Rule,
        *,
        is_of_use: Callable[[Answer], bool] = lambda _: True,
    ) -> Answer:
        """The last answer.

        Args:
            ask: asks once; given the attempt's number from 1.
            rule: when it is asked again.
            is_of_use: whether an answer need not be asked for again, whatever its status; what
                costs is asked with none.

        Raises:
            UnreachableError, NoAnswerError: the last attempt's.
        """
        unconnected = unanswered = 0
        while True:
            try:
                answer = ask(unconnected + unanswered + 1)
            except UnreachableError:
                unconnected += 1
                if unconnected > rule.connection_retries:
                    raise
                pause_s = unconnected * _CONNECTION_PAUSE_S
            except NoAnswerError:
                unanswered += 1
                if not rule.even_unanswered or unanswered > rule.retries:
                    raise
                pause_s = unanswered * rule.pause_s
            else:
                unanswered += 1
                passes = answer.status in rule.statuses or not is_of_use(answer)
                if not passes or unanswered > rule.retries:
                    return answer
                said_s = _said_pause_s(answer.headers.get("retry-after", ""), self._wall())
                pause_s = unanswered * rule.pause_s if said_s is None else said_s
            self._sleep(pause_s)


def _said_pause_s(text: str, now: float) -> float | None:
    """What a Retry-After says, in seconds from now, bounded; None where it says nothing."""
    if text.isascii() and text.isdecimal():
        return _bounded(float(text[:9]))
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return _bounded(moment - now)


def _bounded(pause_s: float) -> float:
    return min(max(pause_s, LEAST_PAUSE_S), LONGEST_PAUSE_S)
