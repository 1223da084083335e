"""The least of the nunu API that an upload needs, in a process of its own.

`benchmarks.upload` starts it with one argument, JSON of what it leads to: a URL for each place of
which it only adds key and part number, and for "s3" the endpoint, the bucket and the credentials
with which boto3 signs. A build's name says to which place and in parts of how many bytes:
"tls 16777216". It prints its port, and ends when its input does.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Discarded:
    """A place that forgets what it is sent."""

    def __init__(self, url: str) -> None:
        self._url = url

    def initiate(self, key: str) -> str:
        """Return an upload id."""
        return f"mpu-{key}"

    def sign(self, key: str, _upload: str, number: int) -> str:
        """Return where a part goes."""
        return f"{self._url}/{key}?partNumber={number}"

    def complete(self, key: str, upload: str, parts: list[dict[str, Any]]) -> None:
        """Do nothing: what has arrived, the server's log tells."""

    def cancel(self, key: str, upload: str) -> None:
        """Do nothing."""


class Stored:
    """A bucket of an S3 server."""

    def __init__(self, endpoint: str, bucket: str, key_id: str, secret: str) -> None:
        import boto3  # noqa: PLC0415 - only where such a server is measured
        from botocore.config import Config  # noqa: PLC0415 - same

        self._s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._bucket = bucket

    def initiate(self, key: str) -> str:
        """Return an upload id."""
        answer = self._s3.create_multipart_upload(Bucket=self._bucket, Key=key)
        upload: str = answer["UploadId"]
        return upload

    def sign(self, key: str, upload: str, number: int) -> str:
        """Return where a part goes."""
        url: str = self._s3.generate_presigned_url(
            "upload_part",
            {"Bucket": self._bucket, "Key": key, "UploadId": upload, "PartNumber": number},
        )
        return url

    def complete(self, key: str, upload: str, parts: list[dict[str, Any]]) -> None:
        """Make an object of the parts."""
        done = [{"PartNumber": part["part_number"], "ETag": part["etag"]} for part in parts]
        self._s3.complete_multipart_upload(
            Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done}
        )

    def cancel(self, key: str, upload: str) -> None:
        """Forget the parts."""
        self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)


class Handler(BaseHTTPRequestHandler):
    """Answers the four upload operations; an object's key begins with its place."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment
    disable_nagle_algorithm = True
    places: dict[str, Discarded | Stored]
    numbers = itertools.count(1)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        """Initiate or complete."""
        asked = self._body()
        if self.path.endswith("/complete"):
            key = asked["object_key"]
            self._place(key).complete(key, asked["upload_id"], asked["parts"])
            self._answer({"build_id": asked["build_id"]})
            return
        name, _, part_size = asked["name"].partition(" ")
        number = next(self.numbers)
        key = f"{name}/{number}"
        self._answer(
            {
                "upload_type": "multipart",
                "build_id": f"00000000-0000-4000-8000-{number:012}",
                "upload_id": self._place(key).initiate(key),
                "object_key": key,
                "total_parts": -(-asked["file_size"] // int(part_size)),
                "part_size": int(part_size),
            }
        )

    def do_GET(self) -> None:
        """Tell where parts go."""
        asked = self._query()
        key, upload = asked["object_key"], asked["upload_id"]
        numbers = [int(number) for number in asked["part_numbers"].split(",")]
        urls = [
            {"part_number": number, "url": self._place(key).sign(key, upload, number)}
            for number in numbers
        ]
        self._answer({"upload_urls": urls})

    def do_DELETE(self) -> None:
        """Cancel."""
        asked = self._query()
        self._place(asked["object_key"]).cancel(asked["object_key"], asked["upload_id"])
        self._answer({"success": True})

    def _place(self, key: str) -> Discarded | Stored:
        return self.places[key.partition("/")[0]]

    def _query(self) -> dict[str, str]:
        asked = parse_qs(urlsplit(self.path).query)
        return {name: values[0] for name, values in asked.items()}

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        body: dict[str, Any] = json.loads(self.rfile.read(length) or b"{}")
        return body

    def _answer(self, payload: dict[str, Any]) -> None:
        body = json.dumps(payload).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(config: str) -> None:
    """Serve until the input ends."""
    Handler.places = {
        name: Discarded(place) if isinstance(place, str) else Stored(**place)
        for name, place in json.loads(config).items()
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
