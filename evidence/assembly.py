"""Items that arrive together are made ready together, step by step, and share a commit.

Alone, each step of preparing an item finds the processor's caches full of another step's. So a
request waits until a turn of the event loop has brought no further one, or enough are there; and the
prepared ones until the loop has taken in what was on its way. There is no timer: with nobody else
about, that is three empty turns of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from evidence.access import Caller
from evidence.batch import Outcome
from evidence.log import Log
from evidence.preparation import Asked, Preparation, Prepared
from models.canonical import JSONValue
from models.errors import EvidenceError

AT_ONCE: Final = 16
"""So many items are prepared in a turn of the loop: the steps then run from the caches, and others get their turn soon."""
QUIET_TURNS: Final = 2
MAX_GATHER: Final = 256
MAX_GATHER_S: Final = 0.02
"""What is prepared goes to the log when so many turns brought nothing new; under a flood so many items, or after so long."""

Assembled = tuple[Prepared, Outcome] | EvidenceError
"""An item with what the log says of it, or what refuses it."""


@dataclass(slots=True)
class _Request:
    """The items of one request: `asked` those still to be prepared, `made` what became of the others, in order.

    Once `answered` is done, its sender gone or told of a fault of ours, no more is prepared and nothing is sealed.
    """

    asked: deque[Asked]
    answered: asyncio.Future[list[Assembled]]
    made: list[Prepared | EvidenceError] = field(default_factory=list)


class Assembly:
    """Prepares and appends the items of all requests of one event loop."""

    def __init__(self, preparation: Preparation, log: Log) -> None:
        self._preparation, self._log = preparation, log
        self._requests: deque[_Request] = deque()
        self._whole: list[_Request] = []
        self._arrived = self._gathered = 0
        self._turning: asyncio.AbstractEventLoop | None = None

    async def seal(self, bodies: Sequence[JSONValue], caller: Caller, *, request_id: str) -> list[Assembled]:
        """What became of each of `bodies`, in order.

        Shapes: n ≥ 1 parsed bodies → n answers; all of one call lie in one commit.
        Raises: Unready (nothing stored), OutcomeOpen (may be stored: send the same again), HomeRefused.
        """
        loop = asyncio.get_running_loop()
        request = _Request(deque([Asked(body, caller, request_id) for body in bodies]), loop.create_future())
        self._arrived += 1
        if self._turning is not loop:  # a loop that has ended took its turns with it, and those who wait for an answer
            self._turning, self._gathered = loop, 0
            self._requests.clear()
            self._whole.clear()
            loop.call_soon(self._turn, loop, self._arrived, 0, loop.time() + MAX_GATHER_S)
        self._requests.append(request)
        return await request.answered

    def _turn(self, loop: asyncio.AbstractEventLoop, seen: int, quiet: int, until: float) -> None:
        """One turn of the loop: wait for company, prepare some items, or hand over what is prepared."""
        quiet = quiet + 1 if self._arrived == seen else 0
        if self._requests and (quiet or len(self._requests) >= AT_ONCE):
            self._prepare_some()
            quiet = 0
        is_calm = not self._requests and quiet >= QUIET_TURNS
        if self._whole and (is_calm or self._gathered >= MAX_GATHER or loop.time() >= until):
            whole, self._whole, self._gathered = self._whole, [], 0
            self._append(whole)
            until = loop.time() + MAX_GATHER_S
        if self._requests or self._whole:
            loop.call_soon(self._turn, loop, self._arrived, quiet, until)
        else:
            self._turning = None

    def _prepare_some(self) -> None:
        """Prepares the next items; requests of which none is left are whole."""
        taken: list[tuple[_Request, Asked]] = []
        for _ in range(len(self._requests)):
            request = self._requests.popleft()
            if request.answered.done():
                continue
            while request.asked and len(taken) < AT_ONCE:
                taken.append((request, request.asked.popleft()))
            if request.asked:
                self._requests.append(request)  # behind the others: a long request does not hold them up
            else:
                self._whole.append(request)
            if len(taken) == AT_ONCE:
                break
        try:
            made = self._preparation.prepare_each([asked for _, asked in taken])
        except Exception as error:  # noqa: BLE001 - handed to those who sent them: a turn that raises would be the last one
            made = [error] * len(taken)
        for (request, _), each in zip(taken, made, strict=True):
            if isinstance(each, Prepared | EvidenceError):
                request.made.append(each)
            elif not request.answered.done():
                request.answered.set_exception(each)
        self._gathered += len(taken)

    def _append(self, whole: Sequence[_Request]) -> None:
        requests = [request for request in whole if not request.answered.done()]
        items = [each.pending for request in requests for each in request.made if isinstance(each, Prepared)]
        if not items:
            _answer(requests, ())
            return
        try:
            sealed = self._log.submit(items)
        except Exception as error:  # noqa: BLE001 - as above
            _refuse(requests, error)
        else:
            sealed.add_done_callback(partial(_take, requests))


def _take(requests: Sequence[_Request], sealed: asyncio.Future[list[Outcome]]) -> None:
    error = sealed.exception()
    if error is None:
        _answer(requests, sealed.result())
    else:
        _refuse(requests, error)


def _answer(requests: Sequence[_Request], outcomes: Sequence[Outcome]) -> None:
    """Hand over what the log said: an outcome for each prepared item, in order."""
    given = iter(outcomes)
    for request in requests:
        answers: list[Assembled] = [(each, next(given)) if isinstance(each, Prepared) else each for each in request.made]
        if not request.answered.done():
            request.answered.set_result(answers)


def _refuse(requests: Sequence[_Request], error: BaseException) -> None:
    """None of these was sealed, or nobody knows; what was refused before is refused all the same."""
    for request in requests:
        if any(isinstance(each, Prepared) for each in request.made):
            if not request.answered.done():
                request.answered.set_exception(error)
        else:
            _answer([request], ())
