"""The attachment filter: what it finds, however it is written and cut."""

from __future__ import annotations

import time

import pytest

from examples.reject_attachment import AttachmentScanner, RejectAttachment, forbidden_name
from tests.examples.peer import header, packet, served

REPLY = (
    b"550-5.7.1 This message has an attachment that is not accepted here.\r\n"
    b"550-5.7.1 These types are not: bat, cmd, com, exe, hta, js, jse, lnk, msi, scr, vbe, vbs\r\n"
    b"550 5.7.1 Please offer the file for download, or ask the recipient first.\0"
)
MULTIPART = header("Content-Type", "multipart/mixed; boundary=b")


def body_with(*part_headers: str) -> bytes:
    """Return a body of two parts, the second with these headers."""
    lines = ["--b", "Content-Type: text/plain", "", "Hello", "", "--b", *part_headers, ""]
    return "\r\n".join([*lines, "TVqQAAMAAAA", "--b--", ""]).encode()


def scan(body: bytes, size: int) -> str | None:
    """Return what is found in a body that comes in pieces of a size."""
    scanner = AttachmentScanner()
    for start in range(0, len(body), size):
        found = scanner.feed(body[start : start + size])
        if found is not None:
            return found
    return scanner.finish()


FORBIDDEN = {
    "plain": "Content-Disposition: attachment; filename=a.exe",
    "quoted": 'content-disposition: ATTACHMENT; FileName = "a.EXE"',
    "escaped": r'Content-Disposition: attachment; filename="a.e\xe"',
    "unclosed quote": 'Content-Disposition: attachment; filename="a.exe',
    "in the type": 'Content-Type: application/octet-stream; name="a.exe"',
    "blank before the colon": "Content-Disposition : attachment; filename=a.exe",
    "folded": 'Content-Disposition: attachment;\r\n\tfilename="a.exe"',
    "folded inside": 'Content-Disposition: attachment; filename="a.e\r\n xe"'.replace(
        "e\r\n x", "\r\n ex"
    ),
    "dots at the end": 'Content-Disposition: attachment; filename="a.exe. ."',
    "percent signs": "Content-Disposition: attachment; filename*=utf-8''a%2Eex%65",
    "pieces": 'Content-Disposition: attachment; filename*0="a.e"; filename*1="xe"',
    "pieces in disorder": "Content-Type: a/b; name*1=xe; name*0=a.e",
    "encoded pieces": "Content-Disposition: attachment; filename*1=xe; filename*0*=''a%2Ee",
    "encoded word, base64": 'Content-Disposition: attachment; filename="=?utf-8?B?YS5leGU=?="',
    "encoded word, no padding": 'Content-Disposition: attachment; filename="=?utf-8?B?YS5leGU?="',
    "encoded words": 'Content-Type: a/b; name="=?utf-8?Q?a=2Ee?= =?utf-8?q?xe?="',
    "behind a comment": 'Content-Disposition: attachment; x="; filename=a.txt"; filename=a.exe',
    "of an enclosed message": (
        "Content-Type: message/rfc822\r\n\r\n"
        "From: a@example.net\r\nContent-Disposition: attachment; filename=a.exe"
    ),
}
HARMLESS = {
    "another type": 'Content-Disposition: attachment; filename="report.pdf"',
    "no dot": "Content-Disposition: attachment; filename=executable",
    "in the middle": "Content-Disposition: attachment; filename=a.exe.txt",
    "in a quoted parameter": 'Content-Disposition: attachment; x="; filename=a.exe"',
    "another header": "X-Note: attachment; filename=a.exe",
    "not an encoded word": 'Content-Disposition: attachment; filename="=?utf-8?B?a?="',
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 65_535])
@pytest.mark.parametrize("part", FORBIDDEN.values(), ids=FORBIDDEN)
def test_forbidden_name_is_found_wherever_the_body_is_cut(part: str, size: int) -> None:
    assert scan(body_with(part), size)


@pytest.mark.parametrize("size", [1, 65_535])
@pytest.mark.parametrize("part", HARMLESS.values(), ids=HARMLESS)
def test_other_names_pass(part: str, size: int) -> None:
    assert scan(body_with(part), size) is None


def test_names_outside_of_headers_pass() -> None:
    body = body_with("Content-Type: text/plain")
    assert scan(body + b"\r\nContent-Disposition: attachment; filename=a.exe\r\n", 65_535) is None


def test_headers_at_the_very_end_count() -> None:
    assert scan(b"--b\r\nContent-Disposition: attachment; filename=a.exe", 10)


def test_name_behind_long_headers_is_found_in_bounded_memory() -> None:
    scanner = AttachmentScanner()
    assert scanner.feed(b"--b\r\n") is None
    for _ in range(100):
        assert scanner.feed(b"X-Padding: long\r\n\tand folded\r\n" * 2_000) is None
        assert len(scanner._data) < 70_000
    assert scanner.feed(b"Content-Disposition: attachment; filename=a.exe\r\n\r\n")


def test_text_behind_dashes_passes_in_bounded_memory() -> None:
    scanner = AttachmentScanner()
    assert scanner.feed(b"-- a dump\r\n") is None
    for _ in range(10):
        assert scanner.feed(b" ('one line of many')," * 3_000) is None
        assert len(scanner._data) < 70_000


def test_endless_header_is_refused() -> None:
    scanner = AttachmentScanner()
    scanner.feed(b"--b\r\nContent-Disposition: attachment;\r\n")
    assert scanner.feed(b" x=y;\r\n" * 10_000) == "a header without end"


@pytest.mark.parametrize(
    "piece",
    [
        b"\r\n--",
        b"\r\n--\r\n\r\n",
        b"--\r\nContent-Type: message/rfc822\r\n\r\n",
        b'--\r\nContent-Type: a; name="=?a?q?x',
        b'--\r\nContent-Type: a;a="\\";b="\\"',
        b"--\r\nContent-Type: ; ; ; ; ;=;=;=;\r\n",
        b"--\r\nContent-Type: a;name*0*=%;\r\n",
        b"\n \n \n ",
    ],
)
def test_time_is_in_proportion_to_the_size(piece: bytes) -> None:
    body = piece * (1_000_000 // len(piece))
    start = time.process_time()
    scan(body, 65_535)
    forbidden_name(body[:100_000].decode())
    assert time.process_time() - start < 3  # it is a tenth of that; quadratic would be minutes


async def test_attachment_is_refused_in_several_lines() -> None:
    body = body_with(FORBIDDEN["pieces"])
    async with served(RejectAttachment) as peer:
        await peer.go_on(MULTIPART, packet(b"B", body[:90]))
        assert await peer.ask(packet(b"B", body[90:])) == (b"y", REPLY)


async def test_message_that_is_the_attachment_is_refused() -> None:
    async with served(RejectAttachment) as peer:
        disposition = "attachment;\n filename*=utf-8''a%2Eexe"
        assert await peer.ask(header("Content-Disposition", disposition)) == (b"y", REPLY)


async def test_message_enclosed_in_whole_is_looked_into() -> None:
    async with served(RejectAttachment) as peer:
        await peer.go_on(header("Content-Type", "message/rfc822"))
        await peer.go_on(packet(b"B", b"Content-Type: a/b; name=a.exe\r\n"))
        assert await peer.end() == [(b"y", REPLY)]


async def test_harmless_message_passes_after_a_refused_one() -> None:
    async with served(RejectAttachment) as peer:
        assert await peer.ask(packet(b"B", body_with(FORBIDDEN["plain"]))) == (b"y", REPLY)
        await peer.go_on(MULTIPART, packet(b"B", body_with(HARMLESS["another type"])))
        assert await peer.end() == [(b"c", b"")]
