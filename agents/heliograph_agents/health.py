"""`/healthz` and `/readyz` of an agent: a few lines of HTTP, so that a probe costs nothing and needs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Answer = tuple[bool, str]

_MAX_REQUEST_BYTES = 8192
_REQUEST_SECONDS = 5.0


async def serve_health(host: str, port: int, paths: dict[str, Callable[[], Answer]]) -> asyncio.Server:
    """Answers GET of the given paths: 200 when the check says yes, else 503, with its words.

    Raises:
        OSError: The port is taken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_respond(head, paths))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a prober that is gone or speaks something else
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST_BYTES)


def ask(host: str, port: int, path: str, timeout_seconds: float) -> Answer:
    """Asks an agent. Returns whether it says yes, and its words."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == 200, answer.read(_MAX_REQUEST_BYTES).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return False, f"no agent answers at {host}:{port}: {error}"
    finally:
        connection.close()


def _respond(head: bytes, paths: dict[str, Callable[[], Answer]]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
    check = paths.get(path)
    if check is None or method not in (b"GET", b"HEAD"):
        return _response("404 Not Found", "no such path")
    good, words = check()
    return _response("200 OK" if good else "503 Service Unavailable", words)


def _response(status: str, words: str) -> bytes:
    body = f"{words}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
