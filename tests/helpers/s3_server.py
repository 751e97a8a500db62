"""A small S3 server on loopback, in memory, that can be told to fail.

The part of the REST API that object-store clients use, path-style (`/bucket/key`): GET with
Range, HEAD, PUT, copy, DELETE, multipart upload, ListObjects V1 and V2. Signatures are not
checked. Source: docs.aws.amazon.com/AmazonS3/latest/API.
"""

import dataclasses
import hashlib
import importlib.util
import os
import socket
import struct
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclasses.dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` for keys that contain `part`.

    Attributes:
      kind: `error` (a 500), `denied` (a 403 that quotes the keys, as some stores do), `reset` (the
        connection, in the middle of the body), or `slow` (`pause` seconds before each of ten pieces of the
        body).
    """

    kind: str
    times: int
    method: str = "GET"
    part: str = ""
    pause: float = 0.0


class S3Server:
    """The server; `with S3Server() as server` runs it.

    Attributes:
      objects: {"bucket/key": bytes}.
      log: (method, "bucket/key?query", status) of every request; status 0 was a reset.
      faults: what is to go wrong.
    """

    def __init__(self, *buckets: str) -> None:
        self.buckets = set(buckets)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.log: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "S3Server":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use this server."""
        return {**_CREDENTIALS, "S3_ENDPOINT": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}

    def names(self, prefix: str) -> list[str]:
        """The keys below `bucket/folder/`, without it, sorted."""
        with self.lock:
            return sorted(name.removeprefix(prefix) for name in self.objects if name.startswith(prefix))

    def requests(self, method: str, part: str = "") -> int:
        """How many requests of `method` there were for keys that contain `part`."""
        with self.lock:
            return sum(entry[0] == method and part in entry[1] for entry in self.log)

    @contextmanager
    def failing(
        self, kind: str, times: int, method: str = "GET", part: str = "", pause: float = 0.0
    ) -> Iterator[Fault]:
        """Injects a fault for the length of a block; yields it, so that what is left of it can be seen."""
        fault = Fault(kind, times, method, part, pause)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    def take_fault(self, method: str, key: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.part in key:
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def served(*buckets: str) -> Iterator[S3Server]:
    """A server, and this process and its children set up for it; skips the test without tensorflow-io."""
    if importlib.util.find_spec("tensorflow_io") is None:
        pytest.skip("tensorflow-io, which reads object stores, is not installed")
    with S3Server(*buckets) as server:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        try:
            yield server
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


class _Handler(BaseHTTPRequestHandler):
    store: S3Server
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: else each answer waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        """The client waits for this answer before it sends its body."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def log_message(self, *_: object) -> None:
        """The log is `store.log`."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.key = unquote(url.path).lstrip("/")
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.body = self._read_body()
        self.fault = self.store.take_fault(self.command, self.key)
        if self.fault and self.fault.kind == "error":
            return self._error(500, "InternalError")
        if self.fault and self.fault.kind == "denied":
            keys = " ".join(os.environ[name] for name in _CREDENTIALS)
            return self._error(403, "AccessDenied", f"{keys} at http://user:word@host")
        if self.fault and self.fault.kind == "reset" and self.command not in ("GET", "HEAD"):
            return self._reset()
        bucket, _, name = self.key.partition("/")
        if bucket not in self.store.buckets:
            return self._error(404, "NoSuchBucket")
        with self.store.lock:
            answer = self._bucket(bucket) if not name else getattr(self, f"_{self.command.lower()}")()
        self._send(*answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the names that http.server wants

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # Each answers (status, body, headers).

    def _bucket(self, bucket: str) -> tuple[int, bytes, dict[str, str]]:
        if self.command == "HEAD":
            return 200, b"", {}
        if self.command == "POST" and "delete" in self.query:
            for key in ElementTree.fromstring(self.body).iter():
                if key.tag.endswith("Key"):
                    self.store.objects.pop(f"{bucket}/{key.text}", None)
            return 200, f"<DeleteResult {_NAMESPACE}/>".encode(), {}
        return 200, self._listing(bucket).encode(), {"Content-Type": "application/xml"}

    def _listing(self, bucket: str) -> str:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        after = self.query.get("continuation-token") or self.query.get("marker") or ""
        most = int(self.query.get("max-keys", 1000))
        keys = sorted(name.partition("/")[2] for name in self.store.objects if name.startswith(bucket + "/"))
        found: dict[str, str] = {}
        for key in keys:
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folder = prefix + rest.split(delimiter)[0] + delimiter
                found[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                size = len(self.store.objects[f"{bucket}/{key}"])
                found[key] = (
                    f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;x&quot;</ETag>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        names = [name for name in found if name > after]
        page = names[:most]
        truncated = len(names) > most
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if truncated else ""
        return (
            f"<ListBucketResult {_NAMESPACE}><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{token}"
            f"{''.join(found[name] for name in page)}</ListBucketResult>"
        )

    def _get(self) -> tuple[int, bytes, dict[str, str]]:
        content = self.store.objects.get(self.key)
        if content is None:
            return 404, _error_body("NoSuchKey"), {}
        headers = {"ETag": _etag(content), "Accept-Ranges": "bytes", "Last-Modified": formatdate(usegmt=True)}
        span = self.headers.get("Range")
        if not span:
            return 200, content, headers
        first, _, last = span.removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            return 416, _error_body("InvalidRange"), {}
        part = content[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return 206, part, headers

    _head = _get

    def _put(self) -> tuple[int, bytes, dict[str, str]]:
        source = self.headers.get("x-amz-copy-source")
        content = self.body
        if source:
            content = self.store.objects.get(unquote(source).lstrip("/"))
            if content is None:
                return 404, _error_body("NoSuchKey"), {}
        if "uploadId" in self.query:
            self.store.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = content
        else:
            self.store.objects[self.key] = content
        etag = _etag(content)
        if not source:
            return 200, b"", {"ETag": etag}
        return (
            200,
            f"<CopyObjectResult {_NAMESPACE}><ETag>{escape(etag)}</ETag></CopyObjectResult>".encode(),
            {},
        )

    def _post(self) -> tuple[int, bytes, dict[str, str]]:
        bucket, _, name = self.key.partition("/")
        if "uploads" in self.query:
            upload = f"upload{len(self.store.uploads)}"
            self.store.uploads[upload] = {}
            kind, inside = "InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"
        else:
            parts = self.store.uploads.pop(self.query["uploadId"])
            self.store.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
            kind, inside = "CompleteMultipartUploadResult", "<ETag>&quot;x&quot;</ETag>"
        body = f"<{kind} {_NAMESPACE}><Bucket>{bucket}</Bucket><Key>{escape(name)}</Key>{inside}</{kind}>"
        return 200, body.encode(), {}

    def _delete(self) -> tuple[int, bytes, dict[str, str]]:
        if "uploadId" in self.query:
            self.store.uploads.pop(self.query["uploadId"], None)
        else:
            self.store.objects.pop(self.key, None)
        return 204, b"", {}

    def _error(self, status: int, code: str, message: str = "") -> None:
        self._send(status, _error_body(code, message), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        kind = self.fault.kind if self.fault else ""
        self._note(0 if kind == "reset" else status)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or not body:
            return None
        if kind == "reset":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self._abort()
        pieces = 10 if kind == "slow" else 1
        step = -(-len(body) // pieces)
        for start in range(0, len(body), step):
            time.sleep(self.fault.pause if self.fault else 0)
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
        return None

    def _note(self, status: int) -> None:
        query = "?" + urlsplit(self.path).query if urlsplit(self.path).query else ""
        with self.store.lock:
            self.store.log.append((self.command, self.key + query, status))

    def _reset(self) -> None:
        self._note(0)
        self._abort()

    def _abort(self) -> None:
        """Ends the connection with a RST instead of a FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _error_body(code: str, message: str = "") -> bytes:
    text = escape(message or code)
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{text}</Message></Error>'.encode()
