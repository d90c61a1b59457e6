"""What the service refuses or cannot do. Tables in `api` and `cli` give each its HTTP status and exit code."""

from __future__ import annotations

from collections.abc import Mapping

from models.errors import EvidenceError


class ServiceError(EvidenceError):
    """The service could not or would not do what was asked."""


class NotFound(ServiceError):
    """Nothing here has that name (404)."""


class Ambiguous(ServiceError):
    """A prefix fits more than one item (409)."""


class Conflict(ServiceError):
    """The client key already stands for other content; the conflict was itself preserved (409)."""

    def __init__(self, message: str, *, record_id: str | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.record_id = record_id


class Stale(ServiceError):
    """`follows` is not the present head of the link (409); nothing was stored."""


class Erased(ServiceError):
    """The item was erased; its tombstone remains (410)."""

    def __init__(self, message: str, *, tombstone: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.tombstone = tombstone


class Unauthorised(ServiceError):
    """No token, or one that is unknown, expired or revoked (401)."""


class Forbidden(ServiceError):
    """The caller's roles or subject do not allow this (403)."""


class NotFinal(ServiceError):
    """Too few chains hold the item yet (409 `not-final`, exit 2)."""


class TooLarge(ServiceError):
    """A body, original or item is above its limit (413)."""


class Unready(ServiceError):
    """The service cannot act now and says when to ask again (503)."""

    def __init__(self, message: str, *, retry_after_s: int = 5, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Overloaded(Unready):
    """Intake pauses because the oldest promise or the queue is near its limit (503, or 429 for one caller)."""


class OutcomeOpen(Unready):
    """Whether the item was stored cannot be told yet; the same submission may be sent again (503)."""


class StorageFull(Unready):
    """The disk refused a write; nothing after the last answer was stored (507)."""


class Damaged(ServiceError):
    """Stored bytes are not what they were; the answer is refused rather than guessed (500)."""


class SettingWrong(ServiceError):
    """A setting cannot be used; one sentence names it. The start stops (64)."""


class HomeRefused(ServiceError):
    """The home belongs to another process, is a copy, or lies behind its chains; nothing is signed."""
