"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Tells an aware UTC time when called; starts at 2026-01-01T00:00:00Z; goes on only when told."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        """Move by `seconds`, back when negative, and say the new time."""
        self.now += timedelta(seconds=seconds)
        return self.now

    def set(self, now: datetime) -> None:
        if now.tzinfo is None:
            msg = "a clock tells aware times"
            raise ValueError(msg)
        self.now = now.astimezone(UTC)
