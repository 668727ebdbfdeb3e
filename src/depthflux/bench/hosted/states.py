"""An answer to a poll → the state of that very prediction, or why it says nothing of it.

Knows nothing of asking again.
"""

from __future__ import annotations

from depthflux.bench.hosted.errors import HostedError, UnreadableAnswerError
from depthflux.bench.hosted.exchanges import Answer
from depthflux.bench.hosted.keyed import KeyedApi
from depthflux.bench.hosted.replies import HostedPrediction, read_data, read_prediction


class StateReader:
    """Reads answers to the polls of one prediction, each once."""

    def __init__(self, api: KeyedApi, prediction_id: str, also: frozenset[int]) -> None:
        """Read nothing yet.

        Args:
            api: that is asked.
            prediction_id: whose state.
            also: values of `code` that mean success, too.
        """
        self._api, self._id, self._also = api, prediction_id, also
        self._of: Answer | None = None
        self._read: HostedPrediction | HostedError | None = None

    def says_something(self, answer: Answer) -> bool:
        """Whether an answer says something of the prediction."""
        self._of = answer
        try:
            self._read = self._prediction(answer)
        except HostedError as error:
            self._read = error
        return isinstance(self._read, HostedPrediction)

    def result(self, answer: Answer) -> HostedPrediction:
        """What an answer says of the prediction.

        Raises:
            HostedError: nothing.
        """
        if self._of is not answer or self._read is None:
            return self._prediction(answer)
        if isinstance(self._read, HostedError):
            raise self._read
        return self._read

    def _prediction(self, answer: Answer) -> HostedPrediction:
        if answer.status != 200:
            raise self._api.refusal(answer, "for a prediction's state")
        try:
            prediction = read_prediction(read_data(answer.body, self._also))
            if prediction.id != self._id:
                raise UnreadableAnswerError(f"data.id={prediction.id!r}, another prediction's")
        except UnreadableAnswerError as error:
            raise self._api.unreadable(error, self._id) from None
        return prediction
