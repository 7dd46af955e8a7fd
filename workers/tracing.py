"""OpenTelemetry: one trace for each task, from the call to the record, where an endpoint is configured.

The context of a trace travels in the header `traceparent` of the messages, as W3C writes it; of a task whose
caller sent none, the id of the task is that of the trace. Without OTEL_EXPORTER_OTLP_ENDPOINT nothing of
OpenTelemetry is loaded. No span carries a prompt, an answer or the words of an error.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from celery.exceptions import Ignore

from config.settings import settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

SERVICE = "aria-fleet"

LAST_64_BITS = 2**64 - 1

log = structlog.get_logger()


@cache
def tracer() -> "Tracer | None":
    """Make this process's tracer, which sends its spans by OTLP over HTTP; None: nobody wants spans."""
    if not settings().otlp_endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning(
            "no_traces", why="OpenTelemetry is not installed", mend="pip install 'aria-fleet[traces]'"
        )
        return None
    # Of its own, not the global one: a program that calls `complete` may have that for itself.
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # reads OTEL_EXPORTER_OTLP_*
    return provider.get_tracer(SERVICE)


@contextmanager
def span(
    name: str,
    task: tuple[str, Mapping[str, Any]] | None = None,
    *,
    kind: str = "INTERNAL",
    **attributes: str | float | None,
) -> Generator[None]:
    """Note what happens inside as a span, if anybody wants spans.

    Args:
        name: of the step.
        task: its id and the headers of its message, where the step begins a process's part of the trace.
        kind: PRODUCER, CONSUMER or INTERNAL.
        attributes: their names with `__` for each dot; None is left out.
    """
    made = tracer()
    if made is None:
        yield
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

    with made.start_as_current_span(
        name,
        context=context_of(*task) if task else None,
        kind=SpanKind[kind],
        attributes=named(attributes),
        record_exception=False,  # its words may be the prompt's
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except BaseException as error:
            cause = error.__cause__ if isinstance(error, Ignore) else error  # by itself it is no failure
            if cause is not None:
                current.set_status(Status(StatusCode.ERROR, type(cause).__name__))
            raise


def note(**attributes: str | float | None) -> None:
    """Add attributes to the span that this is in."""
    if tracer() is not None:
        from opentelemetry.trace import get_current_span  # noqa: PLC0415

        get_current_span().set_attributes(named(attributes))


def headers() -> dict[str, str]:
    """Write the context of the span that this is in, for a message; nothing where nobody wants spans."""
    carrier: dict[str, str] = {}
    if tracer() is not None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        TraceContextTextMapPropagator().inject(carrier)
    return carrier


def context_of(task_id: str, carrier: Mapping[str, Any]) -> "Context":
    """Read the context of a task's trace from the headers of its message."""
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    found = TraceContextTextMapPropagator().extract(carrier, Context())
    if trace.get_current_span(found).get_span_context().is_valid:
        return found
    number = UUID(task_id).int
    parent = trace.SpanContext(
        number, number & LAST_64_BITS, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def named(attributes: Mapping[str, str | float | None]) -> dict[str, str | float]:
    return {key.replace("__", "."): value for key, value in attributes.items() if value is not None}
