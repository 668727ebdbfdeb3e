"""What comes in is judged: submissions, uploads. Nothing is written, and nobody is waited for.

So what a large body is multiplied by lasts as long as judging it does, and not as long as the disk
takes, or a store that is locked. Everything in here reads the store or the disk and is for threads.
Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError, UnreadableImageError, show
from depthflux.images import PictureFormat, ReadLimits, inline_picture, inspect_picture
from depthflux.images.text import is_url
from depthflux.model.lora_names import find_loras
from depthflux.server.answers import origin_of
from depthflux.server.media import Media
from depthflux.server.names import is_file_name
from depthflux.server.predictions import Predictions
from depthflux.server.rows import Idempotency, Stored
from depthflux.server.settings import ServerSettings
from depthflux.server.uploads import Ticket
from depthflux.server.webhooks import check_webhook_url
from depthflux.settings import EngineSettings

#: The model reads 512 tokens.
MAX_PROMPT_CHARACTERS = 16_384
#: What browsers and proxies take everywhere.
MAX_URL_CHARACTERS = 2048
_MEDIA_PATH = re.compile(r"/media/([^/?#]+)")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A picture that may be taken in.

    Attributes:
        data: its bytes.
        format: what they are.
    """

    data: bytes
    format: PictureFormat


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A submission, read and judged.

    Attributes:
        fields: the request's, without the control image, as JSON values; the seed is drawn.
        picture: a control image that came inside it; None where it is fetched or uploaded.
        control_url: where the control image is fetched from; empty if it is here.
        control_file: the name of an upload or an output; empty if it is not one.
        webhook_url: who is told; empty for nobody.
        once: the Idempotency-Key and what came under it; None where there is none.
    """

    fields: dict[str, Any]
    picture: Judged | None
    control_url: str
    control_file: str
    webhook_url: str
    once: Idempotency | None


class Judging:
    """Judges what comes in."""

    def __init__(
        self,
        settings: ServerSettings,
        engine_settings: EngineSettings,
        limits: ReadLimits,
        media: Media,
        predictions: Predictions,
    ) -> None:
        """Judge nothing yet.

        Args:
            settings: the server's.
            engine_settings: where LoRAs lie.
            limits: within which control images are read.
            media: where pictures are.
            predictions: those that were accepted.
        """
        self._settings, self._engine_settings, self._limits = settings, engine_settings, limits
        self._media, self._predictions = media, predictions

    def submission(
        self,
        fields: Mapping[str, Any],
        webhook: str | None,
        *,
        owner: str,
        base: str,
        key: str | None,
    ) -> Asked | Stored:
        """Judge a submission; what its Idempotency-Key has brought before, where it has.

        A repeat is known by itself, before the world is asked: the picture that it names may be
        gone by now.

        Args:
            fields: the body's; unknown ones are passed over.
            webhook: the address in the query, which wins over the body's field.
            owner: whose.
            base: what the client's addresses begin with.
            key: the Idempotency-Key; None where there is none.

        Raises:
            RequestError: something of it is refused.
            IdempotencyError: the key came with another request before.
        """
        once = None
        if key is not None:
            once = Idempotency(key=key, fingerprint=_fingerprint(fields, webhook))
            if (before := self._predictions.find_repeat(owner, once)) is not None:
                return before
        request = GenerationRequest.from_http(fields)
        return self._judge(request, webhook, origin_of(base), once)

    def _judge(
        self,
        request: GenerationRequest,
        webhook: str | None,
        origin: str,
        once: Idempotency | None,
    ) -> Asked:
        _require_short(request, webhook)
        self._settings.require_allowed(request)
        find_loras(request.loras, self._engine_settings, for_strangers=True)
        webhook_url = webhook or request.webhook_url or ""
        # The body's is judged even where the query's wins: a wrong field is never passed over.
        for url in filter(None, (webhook, request.webhook_url)):
            check_webhook_url(url)
        if webhook_url:
            _require_addresses(request)
        if not isinstance(request.control_image, str):
            raise InvalidParameterError(
                f"control_image={show(request.control_image)} is not allowed; allowed: a URL, a "
                "data URI or base64.",
                field="control_image",
                value=request.control_image,
                allowed="a URL, a data URI or base64",
            )
        name = self._own_file(request.control_image, origin)
        data = None if name else inline_picture(request.control_image, limits=self._limits)
        is_url = not name and data is None
        return Asked(
            fields=request.with_seed_drawn().fields(),
            picture=None if data is None else self.picture(data, field="control_image"),
            control_url=request.control_image.strip() if is_url else "",
            control_file=name,
            webhook_url=webhook_url,
            once=once,
        )

    def picture(self, data: bytes, *, field: str = "file") -> Judged:
        """Judge a picture.

        Args:
            data: its bytes.
            field: what it came as, which a refusal names.

        Raises:
            UnreadableImageError: it is no usable picture.
        """
        return Judged(data=data, format=inspect_picture(data, limits=self._limits, field=field))

    def promised(self, ticket: Ticket, data: bytes) -> Judged | None:
        """Judge the bytes that a ticket has promised; None where the same ones are here already.

        Raises:
            InvalidParameterError: they are more or fewer than promised, or others than before.
            UnreadableImageError: they are no usable picture.
        """
        if ticket.sha256:
            if ticket.sha256 != hashlib.sha256(data).hexdigest():
                raise InvalidParameterError(
                    "this upload ticket was used for other bytes; ask for a new one.", field="body"
                )
            if self._media.find(ticket.name) is not None:
                return None
        if len(data) != ticket.size:
            raise InvalidParameterError(
                f"{len(data)} bytes came where the ticket has promised {ticket.size}.", field="body"
            )
        return self.picture(data, field="body")

    def _own_file(self, text: str, origin: str) -> str:
        """The file's name where a text is the address of an upload or output here; else empty.

        The name alone decides: nobody can guess one, and the address may have been built from
        another of this machine's names than the one that it is asked under now. An address of ours
        that has no file is refused: it would be fetched from this very server.

        Raises:
            UnreadableImageError: nothing is there yet, or any more.
        """
        if not is_url(text):
            return ""
        try:
            found = _MEDIA_PATH.fullmatch(urlsplit(text.strip()).path)
        except ValueError:
            return ""
        if found is None or not is_file_name(found[1]):
            return ""
        if self._media.find(found[1]) is not None:
            return found[1]
        if text.strip().lower().startswith(f"{origin.lower()}/"):
            raise no_such_picture()
        return ""


def no_such_picture() -> UnreadableImageError:
    """The refusal of an address of ours that has no picture."""
    return UnreadableImageError(
        "control_image: there is no picture at this address of ours, not yet or no more; "
        "upload it.",
        field="control_image",
    )


def _require_short(request: GenerationRequest, webhook: str | None) -> None:
    """See that texts are no longer than anybody needs: they are read with every poll and list."""
    image = request.control_image
    caps = {
        "prompt": (request.prompt, MAX_PROMPT_CHARACTERS),
        "webhook": (webhook or "", MAX_URL_CHARACTERS),
        "webhook_url": (request.webhook_url or "", MAX_URL_CHARACTERS),
        "control_image": (
            image if isinstance(image, str) and is_url(image) else "",
            MAX_URL_CHARACTERS,
        ),
    }
    for name, (text, most) in caps.items():
        if len(text) > most:
            raise InvalidParameterError(
                f"{name} has {len(text)} characters; allowed: at most {most}.",
                field=name,
                allowed=f"at most {most} characters",
            )


def _fingerprint(fields: Mapping[str, Any], webhook: str | None) -> str:
    """sha256 of what was sent, its seed not yet drawn: a repeat of -1 asks for the same."""
    image = fields.get("control_image")
    # By itself, as it is: a picture of megabytes need not be written as JSON again.
    text = image if isinstance(image, str) else json.dumps(image)
    rest = {name: value for name, value in fields.items() if name != "control_image"}
    digest = hashlib.sha256(json.dumps([rest, webhook], sort_keys=True).encode())
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _require_addresses(request: GenerationRequest) -> None:
    if request.enable_base64_output:
        raise InvalidParameterError(
            "enable_base64_output=True: webhooks carry addresses, not base64; leave one of the "
            "two out.",
            field="enable_base64_output",
            value=True,
            allowed="false together with a webhook",
        )
