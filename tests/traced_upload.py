"""An upload beside a tracing library, in a process of its own: `python traced_upload.py LIBRARY`.

Prints what the library saw, what must not be seen, and the headers that storage was sent, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PART = 64 * 1024


def opentelemetry() -> Callable[[], list[str]]:
    """Turn it on for all aiohttp sessions; return what tells the spans."""
    from opentelemetry import trace
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    AioHttpClientInstrumentor().instrument()
    return lambda: [span.to_json() for span in spans.get_finished_spans()]


def sentry_sdk() -> Callable[[], list[str]]:
    """Turn it on with traces of everything; return what tells the events."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    events: list[str] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: object) -> None:
            items = envelope.items  # type: ignore[attr-defined]
            events.extend(item.get_bytes().decode("utf-8", "replace") for item in items)

    sentry_sdk.init(
        dsn="http://key@127.0.0.1/1", transport=Kept, traces_sample_rate=1.0, send_default_pii=True
    )

    def recorded() -> list[str]:
        sentry_sdk.capture_message("over")
        sentry_sdk.flush()
        return events

    return recorded


async def upload(path: Path, recorded: Callable[[], list[str]]) -> dict[str, object]:
    """Upload three parts, list runs once; the tracing library is on already."""
    from nunu_async import NunuClient
    from nunu_async.sandbox import Sandbox

    async with Sandbox(part_size=PART) as box:
        async with NunuClient(box.api_key, base_url=box.base_url) as nunu:
            await nunu.upload_build(path, name="n", platform="linux", multipart=True)
            await nunu.runs.list_page()
        sent = [sorted(seen.headers) for seen in box.journal if seen.origin == "storage"]
        return {
            "secrets": [box.api_key, *(one.upload_id for one in box.uploads.values())],
            "storage_headers": sent,
        }


def main() -> None:
    """Run it, within a transaction of Sentry's or not."""
    recorded = {"opentelemetry": opentelemetry, "sentry_sdk": sentry_sdk}[sys.argv[1]]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.bin"
        path.write_bytes(bytes(3 * PART))
        if sys.argv[1] == "sentry_sdk":
            from sentry_sdk import start_transaction

            with start_transaction(name="upload"):
                result = asyncio.run(upload(path, recorded))
        else:
            result = asyncio.run(upload(path, recorded))
    print(json.dumps({**result, "seen": recorded()}))


if __name__ == "__main__":
    main()
