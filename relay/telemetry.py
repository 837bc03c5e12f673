"""What the relay says about itself: one wide log line per unit of work, and counters for /metrics.

A line is `noun.past_tense` plus fields; it never holds a secret or a body. Label values come from the configuration
or from the code tables in errors.py, never from a request: an unknown URL cannot mint a series.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final, TextIO

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from relay.models import Accepted, StoreStats

#: Stands for every source name that is not configured.
UNKNOWN_SOURCE: Final = "_unknown"
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)
#: The lines of requests that were taken, by their codes.
TAKEN: Final = {"accepted": "delivery.accepted", "duplicate": "delivery.duplicated"}
SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """One per process; handed to whoever has something to say. `stream` None keeps the lines to itself."""

    def __init__(self, stream: TextIO | None = None, *, as_json: bool | None = None) -> None:
        self.stream = stream
        self.as_json = as_json if as_json is not None else not (stream is not None and stream.isatty())
        self.registry = CollectorRegistry()
        self._lines: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._stamped_ms, self._stamp = 0, ""
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.requests = RequestMeter()
        self.registry.register(self.requests)
        self.key_fetches = counter("key_fetches", "Fetches of public keys, by outcome", ["outcome"])
        self.deliveries_settled = counter(
            "deliveries_settled",
            "Deliveries that left the transform stage, by state and code",
            ["source", "state", "code"],
        )
        self.calls = CallMeter()
        self.registry.register(self.calls)
        self.events_stored = counter("events_stored", "Events stored as pending", ["source"])
        self.events_duplicate = counter(
            "events_duplicate", "Events dropped: their id was seen in the window", ["source"]
        )
        self.sandbox_restarts = counter("sandbox_restarts", "Sandbox children replaced, by reason", ["reason"])
        self.batches = counter("batches", "Batches sent, by destination and answer", ["destination", "code"])
        self.batch_seconds = histogram("batch_seconds", "From sending a batch to its answer", ["destination"])
        self.batch_events = histogram(
            "batch_events",
            "Events in a batch",
            ["destination"],
            buckets=(1, 2, 5, 10, 25, 50, 100, 250, 512, 1000, 5000),
        )
        self.events_settled = counter(
            "events_settled", "Events that ended an attempt, by state and code", ["destination", "state", "code"]
        )
        self.destination_stopped = gauge(
            "destination_stopped", "1 while a destination refuses the key or the address", ["destination"]
        )
        self.leases_lost = counter("leases_lost", "Results dropped because the lease had run out", ["stage"])
        self.rejected_kept = counter("rejected_kept", "Rejected requests kept for a look, by source", ["source"])
        self.rejected_dropped = counter(
            "rejected_dropped", "Rejected requests not kept, by source and reason", ["source", "reason"]
        )
        self.surprises = counter("surprises", "Exceptions nobody expected, by stage", ["stage"])
        self.deliveries = gauge("deliveries", "Deliveries kept, by state", ["state"])
        self.events = gauge("events", "Events kept, by state", ["state"])
        self.oldest_received = gauge("oldest_received_seconds", "Age of the oldest delivery not yet processed", [])
        self.oldest_pending = gauge("oldest_pending_seconds", "Age of the oldest event not yet sent", [])
        self.store_bytes = gauge("store_bytes", "Size of the store's files", [])
        self.config_usable = gauge("config_usable", "0 after relay.toml was changed and refused, until it is right", [])
        self.config_usable.set(1)
        self.store_usable = gauge("store_usable", "1 while the store can be written", [])
        self.series = lru_cache(maxsize=1024)(series_of)

    def log(self, name: str, *, level: str = "info", **fields: object) -> None:
        """One line on the stream: `name` and the fields that are not None, in the order given."""
        if self.stream is None:
            return
        kept = {key: value for key, value in fields.items() if value is not None}
        stamp = self.stamp()
        if self.as_json:
            line = _json({"at": stamp, "level": level, "event": name, **kept})
        else:
            mark = "" if level == "info" else f"{level.upper()} "
            line = f"{stamp[11:23]} {mark}{name} " + " ".join(f"{k}={_plain(v)}" for k, v in kept.items())
        self._write(line)

    def stamp(self) -> str:
        """The time in UTC, to the millisecond."""
        now_ms = time.time_ns() // 1_000_000
        if now_ms != self._stamped_ms:
            self._stamped_ms, self._stamp = now_ms, f"{_second(now_ms // 1000)}.{now_ms % 1000:03d}Z"
        return self._stamp

    def _write(self, line: str) -> None:
        """With the other lines of the event loop's turn, where one was attached; from other threads at once."""
        if self._loop is None or threading.get_ident() != self._loop_thread:
            self._print(line)
            return
        if not self._lines:
            self._loop.call_soon(self.flush)
        self._lines.append(line)

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Gather the lines of each turn of this loop, which runs in the thread that asks; None: print at once again."""
        self.flush()
        self._loop, self._loop_thread = loop, threading.get_ident()

    def flush(self) -> None:
        """Print the lines that wait for the end of the turn."""
        lines, self._lines = self._lines, []
        if lines:
            self._print("\n".join(lines))

    def _print(self, text: str) -> None:
        assert self.stream is not None
        try:
            self.stream.write(f"{text}\n")  # in one, as other threads log too
            self.stream.flush()
        except (OSError, ValueError):  # a closed or full log must not stop the work
            self.surprises.labels("log").inc()

    def took(self, source: str, requests: Sequence[tuple[Accepted, int]], seconds: float) -> None:
        """Count and log requests that became deliveries, or were ones already, and took so long: of each the store's
        answer and the bytes of its body. Thousands a second come here.
        """
        self.requests.count_taken(source, requests, seconds)
        if self.as_json and self.stream is not None:  # neither a source's name nor an id of ours needs an escape
            begin, end = f'{{"at":"{self.stamp()}","level":"info","event":"', f'","source":"{source}","id":"'
            accepted, duplicate = f"{begin}{TAKEN['accepted']}{end}", f"{begin}{TAKEN['duplicate']}{end}"
            ms = f',"ms":{seconds * 1000:.1f}}}'
            lines = [
                f'{duplicate if answer.duplicate else accepted}{answer.id}","bytes":{size}{ms}'
                for answer, size in requests
            ]
            self._write("\n".join(lines))
            return
        for answer, size in requests:
            name = TAKEN["duplicate" if answer.duplicate else "accepted"]
            self.log(name, source=source, id=answer.id, bytes=size, ms=round(seconds * 1000, 1))

    def finished(self, source: str, ends: Sequence[tuple[str, str, int, int]]) -> None:
        """Log deliveries that became events or were filtered: of each its id, state, events stored and duplicates.
        Thousands a second come here.
        """
        if self.as_json and self.stream is not None:  # as in `took`, none of it needs an escape
            begin = f'{{"at":"{self.stamp()}","level":"info","event":"delivery.'
            lines = [
                f'{begin}{state}","id":"{delivery_id}","source":"{source}","events":{stored}'
                + (f',"duplicates":{duplicates}}}' if duplicates else "}")
                for delivery_id, state, stored, duplicates in ends
            ]
            if lines:
                self._write("\n".join(lines))
            return
        for delivery_id, state, stored, duplicates in ends:
            self.log(f"delivery.{state}", id=delivery_id, source=source, events=stored, duplicates=duplicates or None)

    def surprised(self, stage: str, error: BaseException, **fields: object) -> None:
        """An exception nobody expected: counted, and logged with its type and text."""
        self.surprises.labels(stage).inc()
        self.log("surprise.met", level="error", stage=stage, error=f"{type(error).__name__}: {error}", **fields)

    def observe_store(self, stats: StoreStats, now_ms: int) -> None:
        """Set the gauges that are read from the store."""
        for state, count in stats.deliveries.items():
            self.deliveries.labels(state).set(count)
        for state, count in stats.events.items():
            self.events.labels(state).set(count)
        for gauge, oldest in (
            (self.oldest_received, stats.oldest_received_ms),
            (self.oldest_pending, stats.oldest_pending_ms),
        ):
            gauge.set(0 if oldest is None else max(0, now_ms - oldest) / 1000)
        self.store_bytes.set(stats.store_bytes)

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: Iterable[str]) -> Counter:
        return Counter(f"relay_{name}", text, list(labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str]) -> Gauge:
        return Gauge(f"relay_{name}", text, list(labels), registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: Iterable[str], buckets: tuple[float, ...] = SECONDS_BUCKETS
    ) -> Histogram:
        return Histogram(f"relay_{name}", text, list(labels), registry=self.registry, buckets=buckets)


class Durations:
    """How long many things took: seconds in all, and how many were in each of SECONDS_BUCKETS."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(SECONDS_BUCKETS) + 1)

    def add(self, seconds: float, count: int = 1) -> None:
        """So many took so long."""
        self.buckets[bisect_left(SECONDS_BUCKETS, seconds)] += count
        self.seconds += seconds * count

    def add_to(self, histogram: HistogramMetricFamily, source: str) -> None:
        bounds = [*map(str, SECONDS_BUCKETS), "+Inf"]
        histogram.add_metric([source], list(zip(bounds, accumulate(self.buckets), strict=True)), self.seconds)


class SourceMeter(Durations):
    """The figures of one source: requests by code, bytes of accepted bodies, and how long the requests took."""

    __slots__ = ("answered", "body_bytes")

    def __init__(self) -> None:
        super().__init__()
        self.answered: defaultdict[str, int] = defaultdict(int)
        self.body_bytes = 0


class RequestMeter:
    """What requests are counted in: plain numbers, made into metrics when somebody asks for them."""

    def __init__(self) -> None:
        self._sources: defaultdict[str, SourceMeter] = defaultdict(SourceMeter)

    def count(self, source: str, code: str, seconds: float, body_bytes: int = 0) -> None:
        """One answered request; `body_bytes` of a body that was accepted."""
        meter = self._sources[source]
        meter.answered[code] += 1
        meter.body_bytes += body_bytes
        meter.add(seconds)

    def count_taken(self, source: str, requests: Sequence[tuple[Accepted, int]], seconds: float) -> None:
        """Requests that were accepted, as in Telemetry.took."""
        meter, count = self._sources[source], len(requests)
        duplicates = sum([answer.duplicate for answer, _ in requests])
        if duplicates:
            meter.answered["duplicate"] += duplicates
        if duplicates < count:
            meter.answered["accepted"] += count - duplicates
        meter.body_bytes += sum([body_bytes for _, body_bytes in requests])
        meter.add(seconds, count)

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        answered = CounterMetricFamily(
            "relay_requests", "Requests answered, by source and code", labels=["source", "code"]
        )
        took = HistogramMetricFamily(
            "relay_request_seconds", "From the request's headers to its answer", labels=["source"]
        )
        size = CounterMetricFamily("relay_body_bytes", "Bytes of accepted bodies", labels=["source"])
        for source, meter in self._sources.items():
            for code, count in meter.answered.items():
                answered.add_metric([source, code], count)
            meter.add_to(took, source)
            if meter.body_bytes:
                size.add_metric([source], meter.body_bytes)
        yield from (answered, took, size)


class CallMeter:
    """How long scripts took to answer, by source: counted as requests are, and for many calls at once."""

    def __init__(self) -> None:
        self._sources: defaultdict[str, Durations] = defaultdict(Durations)

    def count(self, source: str, seconds: float, calls: int) -> None:
        """So many calls were answered, each so long after it was asked for."""
        self._sources[source].add(seconds, calls)

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        took = HistogramMetricFamily("relay_transform_seconds", "Wall time of a script's call", labels=["source"])
        for source, durations in self._sources.items():
            durations.add_to(took, source)
        yield took


class LibraryLines(logging.Handler):
    """What libraries log, as one line of ours: who and what kind, never their text, which may quote a request."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__(logging.WARNING)
        self.telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        kind = type(error).__name__ if error else record.funcName
        self.telemetry.log("library.warned", level="warning", library=record.name, kind=kind, line=record.lineno)


def series_of(counter: Counter, *labels: str) -> Counter:
    """One of a counter's series; Telemetry keeps it in mind, as to find it costs more than to count."""
    return counter.labels(*labels)


def stderr_telemetry() -> Telemetry:
    """Lines for people on a terminal, JSON lines everywhere else."""
    return Telemetry(sys.stderr)


def _json(fields: dict[str, object]) -> str:
    """Quickly, and in ASCII whatever the stream's encoding is."""
    try:
        line = _ENCODER.encode(fields).decode()
    except (ValueError, OverflowError):  # half of a character, or a number of more than 64 bits
        return json.dumps(fields, default=str)
    return line if line.isascii() else json.dumps(fields, default=str)


@lru_cache(maxsize=2)
def _second(now_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text.isprintable() or not text or any(c in text for c in ' "=') else text
