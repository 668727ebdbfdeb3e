"""Reads the file out of a multipart/form-data body.

Knows nothing of where the file goes.
"""

from email.message import Message


def extension_of(filename: str) -> str:
    """What follows the last dot of a name, in lower case; "jpg" where that is no plain word."""
    extension = filename.rpartition(".")[2].lower() if "." in filename else ""
    return extension if extension.isascii() and extension.isalnum() else "jpg"


def file_in(content_type: str, body: bytes, field: str = "file") -> tuple[str, bytes] | None:
    """The name and the bytes of a form's file, or None where the form has no such field.

    Args:
        content_type: The request's header, which names the boundary.
        body: The form.
        field: The form's field.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        return None
    # The first delimiter has no line end before it; every other has, and it is not the part's.
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"))[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        disposition = Message()
        for line in head.decode("utf-8", "replace").splitlines():
            header_name, colon, value = line.partition(":")
            if colon and header_name.strip().lower() == "content-disposition":
                disposition["Content-Disposition"] = value.strip()
        name = disposition.get_param("name", header="content-disposition")
        filename = disposition.get_filename()
        if blank and name == field and filename is not None:
            return filename, content
    return None
