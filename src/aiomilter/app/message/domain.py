"""Domains with other letters than ASCII, in both of their forms.

Rules of this file:

- Nothing raises: a domain that cannot be converted is None, or stays as it is.
- The rules are those of IDNA 2008 as far as the standard library knows letters: characters are
  letters, marks, digits and hyphens of Unicode, in lower case and NFC. The codec ``idna`` of the
  standard library is that of 2003, which makes "strasse" of "straße", another domain.
"""

from __future__ import annotations

import unicodedata

__all__ = ["ascii_domain", "unicode_domain"]

_ACE = "xn--"
_MAX_LABEL = 63
_MAX_DOMAIN = 255
"""RFC 5321, 4.5.3.1.2."""


def ascii_domain(domain: str) -> str | None:
    """Return a domain in lower case with labels of ASCII (A-labels), or None if there is none."""
    if domain.isascii():
        return domain.lower()
    if len(domain) > _MAX_DOMAIN:
        return None
    labels: list[str] = []
    # Some keyboards type other full stops (RFC 3490, section 3.1).
    for label in _full_stops(domain).split("."):
        converted = _ascii_label(label)
        if converted is None:
            return None
        labels.append(converted)
    return ".".join(labels)


def unicode_domain(domain: str) -> str:
    """Return a domain in lower case with labels as people read them (U-labels).

    A label that is none stays as it is.
    """
    if len(domain) > _MAX_DOMAIN:
        return domain.lower()
    return ".".join(_unicode_label(label) for label in _full_stops(domain).lower().split("."))


def _full_stops(domain: str) -> str:
    return domain.replace("\u3002", ".").replace("\uff0e", ".").replace("\uff61", ".")


def _ascii_label(label: str) -> str | None:
    if label.isascii():
        return label.lower()
    prepared = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", label).lower())
    if prepared.isascii():
        return prepared
    if not _is_of_letters(prepared):
        return None
    converted = _ACE + prepared.encode("punycode").decode("ascii")
    return converted if len(converted) <= _MAX_LABEL else None


def _unicode_label(label: str) -> str:
    if not label.startswith(_ACE) or len(label) > _MAX_LABEL or not label.isascii():
        return label
    try:
        converted = label.removeprefix(_ACE).encode("ascii").decode("punycode")
    except (UnicodeError, ValueError, OverflowError):
        return label
    # Only what is written so, and in no other way: else two names would look alike.
    return converted if _ascii_label(converted) == label else label


def _is_of_letters(label: str) -> bool:
    return all(char == "-" or unicodedata.category(char)[0] in "LMN" for char in label)
