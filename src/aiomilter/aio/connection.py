"""One connection from an MTA: bytes between a transport, a session and a dispatcher.

Rules of this file:

- Hot path: handlers that wait for nothing are run in the callback that has brought their command;
  one long-lived task a connection awaits the others. A task, a timer or a `wait_for` for each
  command would cost more than all the rest of it (5, 2 and 12 µs).
- Replies to what was read at once leave in one write. libmilter writes each by itself, which over
  TCP costs 40 ms for a message with edits: Nagle's algorithm against the delayed acknowledgement.
- For the same reason an MTA that has sent macros and waits before it sends the command, as
  Sendmail does over TCP, is acknowledged at once (2.7 ms a message instead of 142).
- There is one timer, for whatever the connection waits for: the MTA's next packet, the rest of a
  packet, a handler, or the MTA's reading.
- An end of the stream is not the end: an MTA may close its half and still read. What has come in
  is served, a handler that runs is given a moment.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable
from typing import cast

from aiomilter.aio.handler_host import TIMER_LAG_S, HandlerHost
from aiomilter.aio.line import Line
from aiomilter.aio.memory import COUNTED_BYTES, SIP_BYTES
from aiomilter.aio.phase import Phase
from aiomilter.aio.shared import READ_BYTES, Shared
from aiomilter.aio.task import ServingTask
from aiomilter.app.host import Abandoned, Cut
from aiomilter.app.milter import Milter
from aiomilter.app.stepping import Waiting
from aiomilter.errors import RemoteProtocolError
from aiomilter.session.events import ConnectionEnd, Event
from aiomilter.session.filter import FilterSession

__all__ = ["Connection"]

_logger = logging.getLogger("aiomilter")

_EOF_GRACE_S = 1.0
"""How long a handler may go on when the MTA has closed its half of the connection."""
_BUFFER_BYTES = 2 * 65_536
"""Above this the MTA is no longer read from until a handler has returned."""
_MANY_ANSWERS = 64
"""More than these do not wait for the rest of what was read: each may have 32 lines."""

# Hot path: members of an enum as globals.
_BETWEEN, _HANDLER = Phase.BETWEEN, Phase.HANDLER


class Connection(HandlerHost, asyncio.BufferedProtocol):
    """Serves one connection with a milter."""

    __slots__ = (
        "_budget",
        "_deadline_of_packet",
        "_dispatcher",
        "_is_negotiating",
        "_listener",
        "_observers",
        "_on_done",
        "_opened_at",
        "_packets_at_deadline",
        "_packets_at_extension",
        "_read_buffer",
    )

    def __init__(
        self,
        factory: Callable[[], Milter],
        shared: Shared,
        listener: str,
        on_done: Callable[[Connection], None],
    ) -> None:
        """Be ready for a transport.

        Args:
            factory: Makes the milter of a session.
            shared: What it has in common with the other connections of the server.
            listener: The address that was connected to, for handlers and the log.
            on_done: Called once, when the connection is over and all hooks have run.
        """
        super().__init__(shared)
        self._budget = shared.memory
        self._read_buffer = shared.read_buffer
        self._on_done = on_done
        self._dispatcher = shared.dispatcher(factory, self._session, self, listener)
        self._observers = shared.observation.observers
        self._listener = listener
        self._opened_at = self._loop.time()
        # Of the packet that has partly arrived; at first, of the whole negotiation.
        self._deadline_of_packet = self._opened_at + self._config.negotiation_timeout
        self._packets_at_deadline = self._packets_at_extension = -1
        self._is_negotiating = True

    # What the transport calls, and behind it the server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve."""
        self._line = Line(cast("asyncio.Transport", transport), self._loop)
        self._observers.connection_opened(self._listener, str(self._line.peer))
        self._begin_task(self._line)

    def connection_failed(self) -> None:
        """Note that there will be no transport."""
        self._on_done(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return self._read_buffer[:SIP_BYTES] if self._budget.is_tight else self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in bytes and serve what needs no waiting; the task is woken only for the rest."""
        session, arrival = self._session, self._arrival
        data = self._read_buffer[:nbytes].tobytes()
        if nbytes == READ_BYTES:
            arrival.wake_soon()  # uvloop reads on, up to 4 MiB in one turn; others wait.
        wakeup = arrival.wakeup
        if wakeup is None:
            session.receive_data(data)
            if session.buffered_bytes > _BUFFER_BYTES and self._line is not None:
                self._line.pause_reading()
            self._kept.count(session.buffered_bytes, self._line)
            return
        left: Event | Waiting | None
        try:
            left = session.receive(data)
            if left is not None:
                left = arrival.context.run(self._serve_now, left)
            if left is None:
                self._finish_batch()
        except RemoteProtocolError as error:
            self._log_protocol_error(error)
            left = session.next_event()
        except Abandoned:
            return
        except Exception as error:  # noqa: BLE001  (it is logged)
            arrival.context.run(self._answer_internal_error, error)
            left = session.next_event()
        if left is not None:
            arrival.wake_now(left)
            if type(left) is Waiting:
                # Behind what the handler waits for: if it is done by then, it has not waited.
                self.note_wait()
        if nbytes > COUNTED_BYTES:
            busy_line = self._line if arrival.wakeup is None else None
            self._kept.count(session.buffered_bytes, busy_line)

    def _serve_now(self, event: Event | None) -> Event | Waiting | None:
        """Serve events in the name of the task, which waits; return what is left for it."""
        session, handle_now = self._session, self._dispatcher.handle_now
        reader, queue = session.reader, session.queue
        loop, task = self._loop, self._task
        assert task is not None
        try:
            _enter_task(loop, task)
        except RuntimeError:
            # Another task is at work: somebody feeds the transport from one.
            return event
        try:
            while event is not None:
                left = handle_now(event)
                if left is not None:
                    return left
                # Hot path: nearly always there is nothing more. What a fault of the library has
                # left unanswered is found out by looking: the MTA must not wait in vain.
                if not (reader.buffer or queue or session.awaiting or session.offer):
                    return None
                event = session.next_event()
                if len(session.outgoing) > _MANY_ANSWERS:
                    # The task can wait until they are read.
                    return event
            return None
        finally:
            _leave_task(loop, task)

    def eof_received(self) -> bool:
        """Note the end of the stream; keep the other direction open for answers."""
        session = self._session
        session.receive_eof()
        if self._phase is _HANDLER and not session.buffered_bytes:
            # Nearly always the MTA is gone, but it may have closed its half only and still read.
            grace = self._loop.time() + _EOF_GRACE_S
            self._deadline_of_handler = min(self._deadline_of_handler, grace)
            if self._cut is None:
                self._timer.set(self._deadline_of_handler)
        self._arrival.wake_soon()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the MTA is gone; a handler that runs is cut short."""
        if self._line is not None:
            self._line.lose()
        self._arrival.wake_soon()
        if self._phase is _HANDLER:
            self._cut_handler(Cut.CONNECTION_LOST)

    def pause_writing(self) -> None:
        """Note that the MTA does not read as fast as it is written to."""
        if self._line is not None:
            self._line.is_writing_paused = True

    def resume_writing(self) -> None:
        """Go on after `pause_writing`."""
        if self._line is not None:
            self._line.resume_writing()

    @property
    def is_idle(self) -> bool:
        """Whether no message is in progress and no handler runs."""
        return self._arrival.wakeup is not None and not self._session.is_in_transaction

    def refuse_new_messages(self, reply: bytes) -> None:
        """Let the message in progress finish and answer what comes after it with ``reply``."""
        self._session.refuse_new_messages(reply)

    def cut_short(self) -> None:
        """End now: a handler that runs costs a temporary failure, then the connection closes."""
        self._is_stopping = True
        self._session.receive_eof()
        self._session.discard_input()
        self._arrival.wake_soon()
        if self._phase is _HANDLER:
            self._cut_handler(Cut.STOPPING)

    def abort(self) -> None:
        """End at once, without a word and without waiting for anything."""
        self._is_aborted = True
        if self._line is not None:
            self._line.abort()
        if self._task is not None:
            self._task.cancel()

    def note_wait(self) -> None:
        """Start the clock of a handler that may have to be cut short, though it has not waited."""
        if self._phase is _BETWEEN:
            self._dispatcher.start_late_clock()

    def on_deadline(self) -> None:
        """Cut short what takes too long, or end the connection for it."""
        phase = self._phase
        if phase in (Phase.HANDLER, Phase.HOOK):
            self._on_handler_deadline()
        elif phase is _BETWEEN and self._arrival.wakeup is not None:
            session = self._session
            if not session.has_negotiated:
                kind, reason = "negotiation", "nothing was negotiated in time"
            elif session.buffered_bytes:
                kind, reason = "packet", "a packet did not arrive whole in time"
            else:
                kind, reason = "idle", f"it was idle for {self._config.idle_timeout:g} s"
            now, packets = self._loop.time(), session.packets_received
            is_late = kind != "idle" and now - self._deadline_of_packet > TIMER_LAG_S
            if is_late and self._packets_at_extension != packets:
                # The loop stood still; uvloop has not read yet what has come. Once a packet.
                self._packets_at_extension = packets
                self._deadline_of_packet = now + TIMER_LAG_S
                self._timer.set(self._deadline_of_packet)
                return
            self._observers.timed_out(kind)
            self._log_end(reason)
            session.close()
            self._arrival.wake_soon()
        elif phase is Phase.WRITE and self._line is not None:
            if self._line.has_been_read_from():
                self._timer.set(self._loop.time() + self._config.write_timeout)
            else:
                self._log_end("the MTA did not read its answers in time")
                self._observers.timed_out("write")
                self._line.abort()

    def _abandon_handler(self) -> None:
        """Go on without the handler that does not end: with another task in its place."""
        self.ticket += 1
        self._cut = None
        if self._task is not None:
            self._strays = [*self._strays, self._task]
        self._phase = _BETWEEN
        assert self._line is not None
        # The handler may be at work in the old one.
        context = self._arrival.context = self._arrival.context.copy()
        try:
            context.run(self._dispatcher.abandon)
        except RemoteProtocolError as error:
            self._log_protocol_error(error)
        finally:
            self._begin_task(self._line)

    def _begin_task(self, line: Line) -> None:
        context = self._arrival.context
        self._task = ServingTask(self._serve(line), self._loop, context, self)

    async def _serve(self, line: Line) -> None:
        """Serve events until the connection is over; long, as each coroutine costs 250 bytes."""
        session, dispatcher, arrival = self._session, self._dispatcher, self._arrival
        reader, queue, task = session.reader, session.queue, self._task
        is_ending = False
        event: Event | Waiting | None = None
        looks = True
        try:
            while True:
                try:
                    if looks:
                        if line.is_lost:
                            session.close()
                        event = session.next_event()
                    looks = True
                    if event is None:
                        self._finish_batch()
                        if line.is_writing_paused:
                            # Whatever comes meanwhile wakes nobody.
                            await self._drain(line)
                            continue
                        await arrival
                        event, arrival.event = arrival.event, None
                        if event is None:
                            continue
                    if type(event) is ConnectionEnd:
                        break
                    await dispatcher.handle(event)
                    event = None
                    # Hot path: nearly always there is nothing more. What a fault of the library has
                    # left unanswered is found out by looking: the MTA must not wait in vain.
                    looks = False
                    if reader.buffer or queue or session.awaiting or session.offer:
                        looks = True
                        if len(session.outgoing) > _MANY_ANSWERS:
                            self._flush()
                            if line.is_writing_paused:
                                await self._drain(line)
                except RemoteProtocolError as error:
                    self._log_protocol_error(error)
                except asyncio.CancelledError:
                    self._phase = _BETWEEN
                    if self._is_aborted or is_ending:
                        raise
                    event, arrival.event = arrival.event, None
                    if event is not None and task is not None:
                        # It was on its way: the MTA is owed an answer first.
                        looks = False
                        task.cancel_again()
                        continue
                    # The loop is ending while nothing runs: the hooks are still owed.
                    is_ending = True
                    session.close()
                except Exception as error:  # noqa: BLE001  (it is logged)
                    self._answer_internal_error(error)
                    if is_ending:
                        break
                    is_ending = True
            self._flush()
            if line.is_writing_paused and not line.is_lost:
                await self._drain(line)
        except Abandoned:
            return
        finally:
            if task is self._task:
                # Whatever comes now finds no handler to cut short.
                self._phase = _BETWEEN
                self._timer.close()
                dispatcher.release()
                self._kept.release()
                line.close(self._config.write_timeout)
                self._tell_end(line)

    def _tell_end(self, line: Line) -> None:
        seconds = self._loop.time() - self._opened_at
        self._observers.connection_closed(self._listener, str(line.peer), seconds)
        self._on_done(self)

    def _finish_batch(self) -> None:
        """All that was read has been served: send the answers and look forward to more."""
        session, line = self._session, self._line
        assert line is not None
        if not session.message_is_open:
            self._dispatcher.settle()
        out = session.outgoing
        if out:
            data = out.pop() if len(out) == 1 else session.data_to_send()
            # Hot path: `Line.write` without its call.
            if not line.is_lost:
                line.transport.write(data)
            if line.is_writing_paused:
                self._arrival.wake_soon()  # It is the task that waits, if it is not at work.
        if line.is_reading_paused:
            line.resume_reading()
        has_part = session.reader.buffer or session.ends_in_macros
        if has_part or self._kept.bytes or self._is_negotiating:
            self._finish_partly(session, line)
        else:
            deadline = self.time() + self._config.idle_timeout
            timer = self._timer
            # Hot path: nearly always only the deadline moves.
            timer.deadline = deadline
            if deadline < timer.fires_at:
                timer.set(deadline)

    def _finish_partly(self, session: FilterSession, line: Line) -> None:
        """The MTA has more to say at once, or there is something to be counted."""
        is_in_packet = bool(session.reader.buffer)
        if is_in_packet or session.ends_in_macros:
            line.acknowledge_at_once()
        self._kept.count(session.buffered_bytes)
        if self._is_negotiating:
            self._is_negotiating = not session.has_negotiated
        if is_in_packet and not self._is_negotiating:
            packets = session.packets_received
            if self._packets_at_deadline != packets:
                # The beginning of a packet: the clock does not start again until it is whole.
                self._packets_at_deadline = packets
                self._deadline_of_packet = self._loop.time() + self._config.packet_timeout
        if is_in_packet or self._is_negotiating:
            self._timer.set(self._deadline_of_packet)
        else:
            self._timer.set(self._loop.time() + self._config.idle_timeout)

    async def _drain(self, line: Line) -> None:
        """Wait until the MTA has read enough of its answers."""
        self._phase = Phase.WRITE
        self._timer.set(self._loop.time() + self._config.write_timeout)
        try:
            await line.drain()
        finally:
            self._phase = _BETWEEN

    def _answer_internal_error(self, error: Exception) -> None:
        """Note a fault of the library itself; the MTA has its answer, the hooks are still owed."""
        _logger.error("internal error in the connection from %s", self._peer, exc_info=error)
        self._dispatcher.answer_internal_error()
        self._flush()

    @property
    def _peer(self) -> str:
        return self._line.peer if self._line is not None else "?"

    def _log_protocol_error(self, error: RemoteProtocolError) -> None:
        self._log_end(f"in state {self._session.state.name}: {error}")
        self._observers.protocol_broken(self._listener)

    def _log_end(self, reason: str) -> None:
        self._dispatcher.log.warning("closed the connection from %s: %s", self._peer, reason)
