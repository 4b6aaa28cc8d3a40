"""The edits of an envelope: another sender, recipients more and less.

Rules of this file; what each MTA makes of an edit is in `aiomilter.app.mta`:

- A recipient is deleted by its text as the client has sent it: both MTAs compare that. Deletions
  come before additions, so that one with other parameters is deleted and added; Sendmail then
  gives it back those that it had.
- Postfix keeps one of two recipients that differ in case alone. If that one is deleted, the other
  is added again.
- Of the sender's parameters, Postfix replaces RET and ENVID one by one, and never takes one away.
  Sendmail replaces all of them or none, and reads them up to the first that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.message.recipients import Recipients
from aiomilter.app.mta.edits import Edit, RecipientAdded, RecipientDeleted, SenderChanged
from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.esmtp import is_recipient_param, keyword_of
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.postfix import PostfixEnvelope
from aiomilter.app.mta.sendmail import SENDER_KEYWORDS

__all__ = ["recipient_edits", "sender_edits"]

_POSTFIX_SENDER = frozenset({"RET", "ENVID"})


def sender_edits(
    old: EnvelopeAddress, new: EnvelopeAddress, mta: Mta | None
) -> tuple[list[Edit], list[str]]:
    """Return the edit that makes another sender, if it is another, and what is lost of it."""
    losses: list[str] = []
    params: str | None = None
    if old.params != new.params:
        if mta is Mta.POSTFIX:
            changed = [
                param
                for param in new.params
                if param not in old.params and keyword_of(param) in _POSTFIX_SENDER
            ]
            params = " ".join(changed) or None
        else:
            # Those that are not known last: Sendmail reads no further.
            params = " ".join(sorted(new.params, key=_is_unknown))
        losses = _lost_params(old, new, mta)
    if old.address == new.address and params is None:
        return [], losses
    return [SenderChanged(new.address, params)], losses


def recipient_edits(recipients: Recipients, mta: Mta | None) -> tuple[list[Edit], list[str]]:
    """Return the edits that make the recipients what they are now, and what is lost of them."""
    if recipients.is_untouched:
        return [], []
    gone: list[EnvelopeAddress] = []
    again: list[EnvelopeAddress] = []
    losses: list[str] = []
    first: dict[tuple[str, str], EnvelopeAddress] = {}
    for recipient in recipients.original:
        first.setdefault(recipient.key, recipient)
        now = recipients.get(recipient)
        if now is None:
            gone.append(recipient)
        elif now.params != first[recipient.key].params:
            gone.append(recipient)
            if first[recipient.key] is recipient:
                again.append(now)
                if mta is not Mta.POSTFIX:
                    losses.append(
                        f"Sendmail keeps the parameters of the recipient {ascii(str(now))[:80]}"
                    )
    deleted = list(dict.fromkeys(recipient.address for recipient in gone))
    if mta is not Mta.SENDMAIL:
        again += _hidden(recipients, deleted, {one.key for one in again})
    added = [one for one in recipients if one.key not in first]
    return [
        *(RecipientDeleted(address) for address in deleted),
        *(RecipientAdded(one.address, _params(one)) for one in (*again, *added)),
    ], losses


def _hidden(
    recipients: Recipients, deleted: Sequence[str], again: set[tuple[str, str]]
) -> list[EnvelopeAddress]:
    """Return the recipients that Postfix has dropped in favour of one that is deleted."""
    originals = {one.address.lower() for one in recipients.original}
    if not deleted or len(originals) == len({one.address for one in recipients.original}):
        # Nearly always: no two of them differ in case alone.
        return []
    keys = {old.key for old in recipients.original}
    paths = [Path(one.address, *one.params) for one in recipients.original]
    model = PostfixEnvelope(Envelope("<>", paths))
    for address in deleted:
        model.delete_recipient(address)
    left = {path.address.lower() for path in model.result().recipients}
    return [
        one
        for one in recipients
        if one.key not in again and one.address.lower() not in left and one.key in keys
    ]


def _params(recipient: EnvelopeAddress) -> str | None:
    return " ".join(filter(is_recipient_param, recipient.params)) or None


def _is_unknown(param: str) -> bool:
    return keyword_of(param) not in SENDER_KEYWORDS


def _lost_params(old: EnvelopeAddress, new: EnvelopeAddress, mta: Mta | None) -> list[str]:
    """Say which parameters of the sender do not become what they are to be."""
    if mta is not Mta.POSTFIX:
        return []
    kept = {keyword_of(param) for param in new.params}
    lost = {
        keyword_of(param)
        for param in {*old.params} ^ {*new.params}
        if keyword_of(param) not in _POSTFIX_SENDER or keyword_of(param) not in kept
    }
    return [f"Postfix keeps the sender's parameter {word[:80]!a}" for word in sorted(lost)]
