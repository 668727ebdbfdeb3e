"""What pictures cost: an estimate before anything is sent, a budget while it is, a sum afterwards.

Money is Decimal, made from the digits that a person typed: 36 times 0.03 is 1.08 and nothing
beside it. Knows nothing of how pictures are asked for, and no price: the hosted endpoint's is
published nowhere that a program could read it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from depthflux.bench.document import Cost
from depthflux.bench.wording import count, which

if TYPE_CHECKING:
    from depthflux.bench.hosted.plan import Task

JOULES_PER_KWH = 3_600_000

PRICE_UNKNOWN = "The price of a picture was not given (--price-per-picture)."
POWER_UNKNOWN = "Power was not measured, and none was given (--watts)."
ELECTRICITY_UNKNOWN = "The price of electricity was not given (--electricity-per-kwh)."


@dataclass(frozen=True)
class Estimate:
    """What tasks will cost at most.

    Attributes:
        pictures: asked for by all of them.
        price_usd: of one picture; None where it is not known.
        usd: of all; None where the price is not known.
    """

    pictures: int
    price_usd: Decimal | None
    usd: Decimal | None

    def sentence(self, where: str) -> str:
        """Such as `36 pictures x 0.03 USD = 1.08 USD at api.wavespeed.ai`.

        Args:
            where: who is paid.
        """
        pictures = count(self.pictures, "picture")
        if self.price_usd is None or self.usd is None:
            return f"{pictures} at {where}; what they cost is not known: see --price-per-picture"
        return f"{pictures} x {usd(self.price_usd)} = {usd(self.usd)} at {where}"


def estimate(tasks: Iterable[Task], price_usd: float | None) -> Estimate:
    """What tasks will cost if all of them are sent.

    Args:
        tasks: those that are still to be sent.
        price_usd: of one picture; None where it is not known.
    """
    pictures = sum(task.pictures for task in tasks)
    price = None if price_usd is None else exact(price_usd)
    return Estimate(pictures, price, None if price is None else price * pictures)


class Budget:
    """How much may still be spent; asked before every task, by several threads.

    A task that is under way counts as paid until it is surely not, so that the sum cannot exceed
    the limit whatever becomes of it.
    """

    def __init__(
        self, price_usd: float | None, max_cost_usd: float | None, *, charged_pictures: int = 0
    ) -> None:
        """Begin with what is spent already.

        Args:
            price_usd: of one picture; None where it is not known.
            max_cost_usd: of all together; None for no limit, which needs no price.
            charged_pictures: paid for by an earlier part of the run.
        """
        self._price = None if price_usd is None else exact(price_usd)
        self._most = math.inf
        if self._price is not None and max_cost_usd is not None:
            self._most = int(exact(max_cost_usd) // self._price)
        self._pictures = charged_pictures
        self._lock = threading.Lock()

    @property
    def pictures(self) -> int:
        """Pictures that count as paid."""
        with self._lock:
            return self._pictures

    @property
    def spent(self) -> Decimal | None:
        """What counts as paid, in USD; None where the price is not known."""
        return None if self._price is None else self._price * self.pictures

    def take(self, pictures: int) -> bool:
        """Count a task's pictures as paid, unless they would exceed the limit.

        Returns:
            Whether the task may be sent.
        """
        with self._lock:
            after = self._pictures + pictures
            if after > self._most:
                return False
            self._pictures = after
            return True

    def refund(self, pictures: int) -> None:
        """Take back what `take` counted for a task that was surely not taken."""
        with self._lock:
            self._pictures -= pictures


def exact(amount: float) -> Decimal:
    """An amount by the digits that Python writes it with: 0.03 is three hundredths."""
    return Decimal(str(amount))


def usd(amount: Decimal) -> str:
    """An amount as people read it, no digit lost: `1.08 USD`, `2 USD`, `0.0035 USD`."""
    text = f"{amount:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} USD"


def hosted_cost(*, charged_pictures: int, received_pictures: int, price_usd: float | None) -> Cost:
    """What the hosted side's pictures cost.

    Args:
        charged_pictures: of tasks that count as paid, those that were not completed too.
        received_pictures: of completed tasks, among which all that was paid is divided, as with a
            local side.
        price_usd: of one; None where it is not known.
    """
    if price_usd is None:
        return _unknown(PRICE_UNKNOWN)
    total = exact(price_usd) * charged_pictures
    how = (
        f"{count(charged_pictures, 'picture')} {which(charged_pictures, 'counts', 'count')} as "
        f"paid, at the price of {usd(exact(price_usd))} each that was given."
    )
    if lost := charged_pictures - received_pictures:
        theirs = which(lost, "is of a task that was", "are of tasks that were")
        how += f" {lost} of them {theirs} not completed"
        how += ", so a picture that counts costs more than that." if received_pictures else "."
    return Cost(
        usd_per_picture=float(total / received_pictures) if received_pictures else None,
        usd_total=float(total),
        mean_watts=None,
        joules_per_picture=None,
        how=how,
    )


def electricity(joules: float, pictures: int, usd_per_kwh: float) -> tuple[float | None, float]:
    """What electricity costs.

    Args:
        joules: drawn for all pictures together.
        pictures: how many.
        usd_per_kwh: price of a kilowatt hour.

    Returns:
        USD for a picture, None where there are no pictures; and USD for all.
    """
    total = joules / JOULES_PER_KWH * usd_per_kwh
    return (total / pictures if pictures else None), total


def local_cost(
    *,
    joules: float | None,
    busy_seconds: float,
    pictures: int,
    usd_per_kwh: float | None,
    source: str,
) -> Cost:
    """What a local side's pictures cost in electricity; the computer itself is not in it.

    Args:
        joules: drawn while tasks were under way; None where power is not known.
        busy_seconds: how long that was.
        pictures: of completed tasks.
        usd_per_kwh: price of a kilowatt hour; None where it is not known.
        source: where the power comes from, one sentence; why there is none where `joules` is None.
    """
    if joules is None:
        return _unknown(source or POWER_UNKNOWN)
    price = (None, None) if usd_per_kwh is None else electricity(joules, pictures, usd_per_kwh)
    what = (
        ELECTRICITY_UNKNOWN
        if usd_per_kwh is None
        else f"Electricity alone, at {usd(exact(usd_per_kwh))} a kWh."
    )
    return Cost(
        usd_per_picture=price[0],
        usd_total=price[1],
        mean_watts=joules / busy_seconds if busy_seconds > 0 else None,
        joules_per_picture=joules / pictures if pictures else None,
        how=f"{source} {what}".strip(),
    )


def _unknown(how: str) -> Cost:
    return Cost(
        usd_per_picture=None,
        usd_total=None,
        mean_watts=None,
        joules_per_picture=None,
        how=how,
    )
