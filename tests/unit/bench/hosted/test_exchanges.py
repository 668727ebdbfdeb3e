"""What is kept of requests and answers: nothing that opens a door."""

from __future__ import annotations

import json

import pytest

from depthflux.bench.hosted.exchanges import kept_body, kept_headers, kept_value

KEY = "a-key-of-these-tests-0123456789"


@pytest.mark.parametrize(
    "text",
    [
        "https://cdn.example/1.jpg?token=s3cret",
        "see https://cdn.example/1.jpg?token=s3cret",
        "url=https://cdn.example/1.jpg?token=s3cret&more=1",
        "gave(https://cdn.example/1.jpg#s3cret)",
        "no connection to http://me:s3cret@proxy.example:3128",
        "first https://a.example/x, then https://b.example/y?sig=s3cret.",
        "HTTPS://CDN.EXAMPLE/1.JPG?TOKEN=s3cret",
    ],
)
def test_no_address_anywhere_in_a_text_keeps_its_secrets(text):
    kept = [
        kept_value({"error": text, text: [text]}, KEY),
        kept_body(json.dumps({"data": {"error": text}}).encode(), KEY),
        kept_body(f"<html>{text}</html>".encode(), KEY),
        kept_body(("{" + json.dumps(text).replace("/", "\\/")).encode(), KEY),
        kept_headers({"Via": text}, KEY),
    ]

    assert "s3cret" not in json.dumps(kept)


def test_the_rest_of_a_text_is_kept():
    kept = kept_value("see https://cdn.example/1.jpg?token=1 for more, or ask", KEY)

    assert kept == "see https://cdn.example/1.jpg?… for more, or ask"


def test_no_part_of_the_key_is_left_where_a_body_is_cut():
    for before in range(1950, 2001):
        kept = kept_body(b"x" * before + KEY.encode() + b"y" * 100, KEY)

        assert KEY[:4] not in kept
        assert len(kept) <= 2000
