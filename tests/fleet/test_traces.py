"""Traces of a fleet, as a collector receives them: real processes, OpenTelemetry's own protocol."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fleet.processes import Fleet

SECRET = "a prompt that no collector should see"
ECHO_CATALOG = Path(__file__).parents[1] / "catalogs/echo"


class Collector:
    """A server that keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.received = b""
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                mine.received += body
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        mine.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def of_task(self, task_id: str, names: set[str]) -> dict[str, Any]:
        """Wait for the spans of a task's trace, by name."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            of_task = [span for span in self.spans if attributes(span).get("fleet.task") == task_id]
            traces = {span.trace_id for span in of_task}
            found = {span.name: span for span in self.spans if span.trace_id in traces}
            if names <= found.keys():
                assert len(traces) == 1, "one trace for each task"
                return found
            time.sleep(0.1)
        pytest.fail(f"no {names - {span.name for span in self.spans}} among {len(self.spans)} spans")


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def fleet(short_folder: Callable[[], Path], collector: Collector) -> Iterator[Fleet]:
    home = short_folder()
    (home / "config").symlink_to(ECHO_CATALOG)
    fleet = Fleet(home)
    fleet.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    fleet.start("dispatcher")
    fleet.worker()
    yield fleet
    fleet.end()


STEPS = {"dispatch", "attempt", "claim", "generate", "record"}


def test_a_task_is_one_trace_from_the_call_to_the_record(fleet: Fleet, collector: Collector):
    """Whoever asks where a minute went sees it in one picture."""
    asked = fleet.run("complete", SECRET, "--profile", "social", "--json")
    assert asked.returncode == 0, asked.stderr
    task_id = str(fleet.ask("SELECT id FROM tasks"))

    found = collector.of_task(task_id, {"enqueue", *STEPS})

    enqueue, dispatch, attempt = found["enqueue"], found["dispatch"], found["attempt"]
    assert not enqueue.parent_span_id
    assert dispatch.parent_span_id == attempt.parent_span_id == enqueue.span_id
    assert {found[name].parent_span_id for name in ("claim", "generate", "record")} == {attempt.span_id}
    begins = [found[name].start_time_unix_nano for name in ("enqueue", "dispatch", "attempt", "generate")]
    assert begins == sorted(begins)
    assert attributes(found["generate"])["gen_ai.request.model"] == "echo"
    assert attributes(found["generate"])["gen_ai.usage.output_tokens"] > 0
    assert attributes(found["record"])["fleet.outcome"] == "succeeded"
    assert SECRET.encode() not in collector.received


def test_a_task_of_a_caller_without_traces_has_one_too(fleet: Fleet, collector: Collector):
    """A program that has only Celery sends no context: then the task's id is the trace's."""
    result = fleet.send(SECRET, profile="social")
    result.get(timeout=60)

    task_id = str(result.id)

    found = collector.of_task(task_id, STEPS)

    assert {span.trace_id for span in found.values()} == {UUID(task_id).bytes}
