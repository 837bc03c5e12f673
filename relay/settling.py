"""How deliveries of one source end in the store: what their script answered, judged and written, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, TypeVar

from relay.errors import LeaseLost, SandboxUnavailable, StoreUnavailable, TransformError
from relay.models import ClaimedDelivery, Event, Finished
from relay.sandbox import Answer
from relay.sources import RunningSource
from relay.stores.base import Store
from relay.telemetry import Telemetry
from relay.transform import TransformLimits, events_from

#: A delivery that surprises the relay this often is dead, so that it cannot come round for ever.
SURPRISES_MAX: Final = 5
STORE_RETRY_SECONDS: Final = 0.5
#: So many bytes of results are judged in one go.
JUDGED_BYTES_MAX: Final = 256 * 1024

T = TypeVar("T")
#: A delivery, and what its script answered; or a surprise that was met on the way.
Answered: TypeAlias = tuple[ClaimedDelivery, Answer | Exception]
#: A delivery whose script gave its events, to be written with others.
Finish: TypeAlias = tuple[ClaimedDelivery, Sequence[Event]]


class Settler:
    """For one source, as it is configured now. `environment` is that of deliveries which asked for none."""

    def __init__(
        self,
        store: Store,
        telemetry: Telemetry,
        source: RunningSource,
        limits: TransformLimits,
        environment: str | None,
    ) -> None:
        self.store, self.telemetry = store, telemetry
        self.source, self.limits, self.environment = source, limits, environment
        self.script, self.destination = source.script, source.settings.destination

    async def settle(self, answered: Sequence[Answered]) -> None:
        """Returns when each of them is in the store, or given back."""
        finishes: list[Finish] = []
        ends: list[tuple[ClaimedDelivery, TransformError | Exception]] = []
        bytes_judged = 0
        for claim, answer in answered:
            result = self.result(claim, answer)
            if isinstance(result, list):
                finishes.append((claim, result))
            else:
                ends.append((claim, result))
            bytes_judged += len(answer) if isinstance(answer, bytes) else 0
            if bytes_judged > JUDGED_BYTES_MAX:
                bytes_judged = 0
                await asyncio.sleep(0)  # the event loop has other work too
        if ends:
            await asyncio.gather(*(self.end(*each) for each in ends), self.finish(finishes))
        else:
            await self.finish(finishes)

    def result(self, claim: ClaimedDelivery, answer: Answer | Exception) -> list[Event] | TransformError | Exception:
        """The events of an answer, or why there are none; an exception is a surprise, or the sandbox's trouble."""
        if answer is not None and not isinstance(answer, bytes):
            return answer
        delivery, destination, limits = claim.delivery, self.destination, self.limits
        environment = delivery.environment or self.environment
        try:
            return events_from(
                answer, delivery, self.script, destination=destination, environment=environment, limits=limits
            )
        except Exception as error:  # noqa: BLE001 - one odd delivery must not end the others
            return error

    async def finish(self, finishes: Sequence[Finish]) -> None:
        """Write them in one go; when that meets a surprise, each alone, so that it costs only the one it is about."""
        if not finishes:
            return
        try:
            done = await self.insist(lambda: self.store.finish_deliveries(finishes))
        except Exception as error:  # noqa: BLE001 - see above
            if len(finishes) == 1:
                await self.end(finishes[0][0], error)
            else:
                await asyncio.gather(*(self.finish([each]) for each in finishes))
            return
        self.report_finished(finishes, done)

    async def end(self, claim: ClaimedDelivery, result: TransformError | Exception) -> None:
        """A delivery without events: dead, or given back for another try."""
        try:
            if isinstance(result, TransformError):
                await self.insist(lambda: self.store.fail_delivery(claim, result))
                self.report_dead(claim, result)
            elif isinstance(result, SandboxUnavailable):
                self.telemetry.log("delivery.postponed", level="warning", id=claim.delivery.id, reason=str(result))
                await self.store.release_delivery(claim, after_seconds=min(60.0, 0.5 * 2 ** min(claim.attempt, 7)))
            else:
                await self.survive(claim, result)
        except LeaseLost:
            self.telemetry.leases_lost.labels("pipeline").inc()
        except Exception as error:  # noqa: BLE001 - one odd delivery must not end the others
            self.telemetry.surprised("pipeline", error, id=claim.delivery.id)
            await self.store.release_delivery(claim, after_seconds=float(claim.attempt))

    async def survive(self, claim: ClaimedDelivery, error: Exception) -> None:
        """Another try after a surprise; after several of them the delivery is dead."""
        self.telemetry.surprised("pipeline", error, id=claim.delivery.id)
        if claim.attempt < SURPRISES_MAX:
            await self.store.release_delivery(claim, after_seconds=float(claim.attempt))
        else:
            await self.insist(lambda: self.store.fail_delivery(claim, TransformError("internal", str(error))))

    async def insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do it again until the store can: the script's result is in hand and should not be made twice."""
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                self.telemetry.log("delivery.unsettled", level="error", reason=str(error))
                await asyncio.sleep(STORE_RETRY_SECONDS)

    # ── what is said of it ───────────────────────────────────────────────────────────────────────────────────────

    def observe(self, count: int, seconds: float) -> None:
        """So many calls were answered, so long after they were asked for."""
        self.telemetry.calls.count(self.source.name, seconds, count)

    def report_finished(self, finishes: Sequence[Finish], done: Sequence[Finished | None]) -> None:
        """One line per delivery; the counters once for all of them, as finding one costs more than counting."""
        ends: list[tuple[str, str, int, int]] = []
        stored = duplicates = filtered = 0
        for (claim, events), finished in zip(finishes, done, strict=True):
            if finished is None:
                continue
            new, known = finished.stored, len(finished.duplicates)
            stored, duplicates, filtered = stored + new, duplicates + known, filtered + (not events)
            ends.append((claim.delivery.id, "processed" if events else "filtered", new, known))
        name, telemetry, series = self.source.name, self.telemetry, self.telemetry.series
        telemetry.finished(name, ends)
        for state, count in (("processed", len(ends) - filtered), ("filtered", filtered)):
            if count:
                series(telemetry.deliveries_settled, name, state, "").inc(count)
        series(telemetry.events_stored, name).inc(stored)
        series(telemetry.events_duplicate, name).inc(duplicates)
        if len(ends) < len(done):
            telemetry.leases_lost.labels("pipeline").inc(len(done) - len(ends))

    def report_dead(self, claim: ClaimedDelivery, error: TransformError) -> None:
        self.telemetry.deliveries_settled.labels(self.source.name, "dead", error.code).inc()
        self.telemetry.log(
            "delivery.died",
            level="warning",
            id=claim.delivery.id,
            source=self.source.name,
            code=error.code,
            line=error.line,  # not the message: a script may put the body into it
        )
