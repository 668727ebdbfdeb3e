"""Source images in, finished pictures out: safely, exactly, and without the private parts.

    limits      how much is accepted, and how far a fetch may go
    source      read_image: whatever a caller gives → RGB pixels; inspect_picture: judged only
    text        is a text a URL, a data URI, base64 or a path?
    fetch       a URL → bytes, without reaching into private networks; pinned: one exchange of it
    decoding    stripped bytes → pixels, all that Pillow does to them; isolated: in a process of its
                own, decoding_process; decoding_words is how they talk
    pixels      any mode or dtype → uint8 sRGB, 16-bit grey
    encode      pixels → PNG, JPEG, WebP
    record      the JSON document inside a picture
    formats     which format some bytes are; container, png, jpeg, webp, exif, packing below it

Knows nothing of depth, models or requests.
"""

from depthflux.images.container import EXTENSIONS, MEDIA_TYPES, PictureFormat
from depthflux.images.encode import encode_image
from depthflux.images.formats import format_of
from depthflux.images.isolated import IsolatedDecoder, NoDecoderError
from depthflux.images.limits import DEFAULT_LIMITS, ReadLimits
from depthflux.images.packing import MAX_RECORD_BYTES
from depthflux.images.record import MAX_EMBEDDED_IMAGE_BYTES, embed, read_record
from depthflux.images.source import (
    SourceImage,
    inline_picture,
    inspect_picture,
    read_image,
)

__all__ = [
    "DEFAULT_LIMITS",
    "EXTENSIONS",
    "MAX_EMBEDDED_IMAGE_BYTES",
    "MAX_RECORD_BYTES",
    "MEDIA_TYPES",
    "IsolatedDecoder",
    "NoDecoderError",
    "PictureFormat",
    "ReadLimits",
    "SourceImage",
    "embed",
    "encode_image",
    "format_of",
    "inline_picture",
    "inspect_picture",
    "read_image",
    "read_record",
]
