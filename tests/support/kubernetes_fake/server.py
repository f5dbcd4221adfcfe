"""A Kubernetes API server on the wire: HTTP and JSON as agents speak it, with rights, selectors, watches and faults.

It knows what an agent uses: jobs, pods, their logs, secrets and events. Rights are enforced by rules as RBAC has them.
Faults are planted by tests: answers that are refused, lost before or after the deed, slow, or cut in the middle.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.kubernetes_fake.store import Json, Refusal, Store

GROUPS = {"jobs": ("batch", "batch/v1", "Job"), "pods": ("", "v1", "Pod"), "secrets": ("", "v1", "Secret"),
          "events": ("", "v1", "Event")}  # fmt: skip
_ROUTE = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/([^/]+)/(jobs|pods|secrets|events)(?:/([^/]+)(/log)?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"[+-]?\d*\.?\d*([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_FIELDS = {
    "events": ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
               "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
               "source", "type"),
    "jobs": ("status.successful",),
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
             "status.podIP", "status.nominatedNodeName"),
    "secrets": ("type",),
}  # fmt: skip
POLL_SECONDS = 0.5


@dataclass
class Fault:
    """Something that goes wrong.

    Attributes:
        method: The method that it happens to.
        path: A pattern that the path must match.
        how: A status to answer; `before`: the connection breaks before anything is done; `after`: it breaks when all is
            done; `html`: what answers is no API.
        times: How often.
        headers: Headers of the answer.
        message: What the answer says.
        call: Called before anything else; tests wait in it, or kill somebody.
    """

    method: str
    path: str
    how: int | str
    times: int = 1
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "planted"
    call: Callable[[], object] | None = None


class ApiServer:
    """One server.

    Args:
        store: Its objects.
        logs: Returns what a pod has printed.
    """

    def __init__(self, store: Store, logs: Callable[[str], bytes] = lambda _: b"") -> None:
        self.store, self.logs = store, logs
        self.version = "v1.36.2"
        self.namespaces: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str, Json | None]] = []
        self.tokens: dict[str, dict[str, list[Json]] | None] = {}
        self._streams: set[socket.socket] = set()
        self._closing = threading.Event()
        server = self

        class Handler(_Handler):
            api = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def grant(self, token: str, roles: Sequence[Json] | None) -> None:
        """Gives a token the rights of Role objects; None means all rights."""
        self.tokens[token] = None if roles is None else {one["metadata"]["namespace"]: one["rules"] for one in roles}

    def plant(self, method: str, path: str, how: int | str, times: int = 1, **more: Any) -> Fault:
        """Plants a fault."""
        fault = Fault(method, path, how, times, **more)
        self.faults.append(fault)
        return fault

    def cut_watches(self) -> int:
        """Breaks all watches that are open. Returns how many there were."""
        with self.store.changed:
            streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        return len(streams)

    def close(self) -> None:
        """Stops it."""
        self._closing.set()
        self.cut_watches()
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        with self.api.store.changed:
            hit = [one for one in self.api.faults
                   if one.times > 0 and one.method == method and re.search(one.path, self.path)]  # fmt: skip
            fault = hit[0] if hit else None
            if fault is not None:
                fault.times -= 1
        try:
            body = json.loads(data) if data else None
            with self.api.store.changed:
                self.api.requests.append((method, parts.path, parts.query, body))
            if fault is not None:
                if fault.call is not None:
                    fault.call()
                if fault.how == "before":
                    self._drop()
                    return
                if fault.how == "html":
                    self._answer(200, b"<html>a proxy</html>", "text/html")
                    return
                if isinstance(fault.how, int) and fault.how:
                    self._refuse(Refusal(fault.how, "Planted", fault.message), fault.headers)
                    return
            answer = self._route(method, parts.path, query, body)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        except ValueError as error:
            self._refuse(Refusal(400, "BadRequest", str(error)))
            return
        if fault is not None and fault.how == "after":
            self._drop()
        elif answer is not None:
            status, made = answer
            self._answer(status, made if isinstance(made, bytes) else json.dumps(made).encode())

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, refusal: Refusal, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._answer(refusal.status, json.dumps(refusal.body()).encode(), headers=headers)

    def _answer(
        self, status: int, data: bytes, kind: str = "application/json", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    # --- what it does ------------------------------------------------------------------------------------------------

    def _route(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any] | None:
        if path == "/version":
            self._authenticate()
            return 200, {"gitVersion": self.api.version}
        match = _ROUTE.fullmatch(path)
        if match is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        namespace, kind, name, log = match[1], match[2], match[3] or "", match[4] or ""
        watch = query.get("watch") == "true"
        verb = {"POST": "create", "DELETE": "delete", "PATCH": "patch"}.get(method) or (
            "get" if name else "watch" if watch else "list"
        )
        self._authorize(verb, kind + log, namespace)
        store = self.api.store
        if log:
            return 200, self._log_of(namespace, name, query)
        if method == "POST":
            if self.api.namespaces and namespace not in self.api.namespaces:
                raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
            return 201, store.create(kind, namespace, _checked(kind, namespace, body))
        if method == "DELETE":
            return 200, store.delete(kind, namespace, name, body or {})
        if method == "PATCH":
            return 200, store.update(kind, namespace, name, lambda item: _merge(item, body))
        if name:
            return 200, store.get(kind, namespace, name)
        chosen = _selecting(kind, query)
        if watch:
            self._watch(kind, namespace, query, chosen)
            return None
        return 200, self._list(kind, namespace, query, chosen)

    def _authenticate(self) -> dict[str, list[Json]] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.api.tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        return self.api.tokens[token]

    def _authorize(self, verb: str, resource: str, namespace: str) -> None:
        roles = self._authenticate()
        group = GROUPS[resource.partition("/")[0]][0]
        if roles is not None and not any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for rule in roles.get(namespace, [])
        ):
            message = (
                f'{resource} is forbidden: User "agent" cannot {verb} resource "{resource}" in API group "{group}"'
            )
            raise Refusal(403, "Forbidden", f'{message} in the namespace "{namespace}"')

    def _list(self, kind: str, namespace: str, query: dict[str, str], chosen: Callable[[Json], bool]) -> Json:
        store = self.api.store
        with store.changed:
            found, version = [one for one in store.all(kind, namespace) if chosen(one)], store.version
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        page = found[start : start + limit] if limit else found
        for one in page:  # items of lists do not say again what they are
            one.pop("kind", None)
            one.pop("apiVersion", None)
        meta = {"resourceVersion": str(version)}
        if limit and start + limit < len(found):
            meta["continue"] = str(start + limit)
        _, group, item_kind = GROUPS[kind]
        return {"kind": f"{item_kind}List", "apiVersion": group, "metadata": meta, "items": page}

    def _log_of(self, namespace: str, name: str, query: dict[str, str]) -> bytes:
        pod = self.api.store.get("pods", namespace, name)
        container = query.get("container")
        if container and container not in [one["name"] for one in pod["spec"]["containers"]]:
            raise Refusal(400, "BadRequest", f"container {container} is not valid for pod {name}")
        lines = self.api.logs(name).splitlines(keepends=True)
        return b"".join(lines[-int(query.get("tailLines") or len(lines) or 1) :])

    def _watch(self, kind: str, namespace: str, query: dict[str, str], chosen: Callable[[Json], bool]) -> None:
        api, store = self.api, self.api.store
        after = int(query.get("resourceVersion") or store.version)
        until = time.monotonic() + float(query.get("timeoutSeconds") or 3600)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with store.changed:
            api._streams.add(self.connection)
        try:
            while time.monotonic() < until and not api._closing.is_set():
                with store.changed:
                    try:
                        changes, newest = store.changes(kind, namespace, after)
                    except Refusal as refusal:
                        self._chunk({"type": "ERROR", "object": refusal.body()})
                        break
                    if not changes:
                        idle = not store.changed.wait(POLL_SECONDS)
                if changes:
                    for change, item in changes:
                        if chosen(item):
                            self._chunk({"type": change, "object": item})
                    after = newest
                elif idle and query.get("allowWatchBookmarks") == "true":
                    after = newest
                    meta = {"resourceVersion": str(after)}
                    self._chunk({"type": "BOOKMARK", "object": {"kind": GROUPS[kind][2], "metadata": meta}})
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        finally:
            with store.changed:
                api._streams.discard(self.connection)

    def _chunk(self, line: Json) -> None:
        data = json.dumps(line).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _selecting(kind: str, query: dict[str, str]) -> Callable[[Json], bool]:
    """Returns what a label selector and a field selector let through."""
    labels = [part.partition("=") for part in (query.get("labelSelector") or "").split(",") if part]
    fields = [part.partition("=") for part in (query.get("fieldSelector") or "").split(",") if part]
    for key, _, _ in labels:
        if not key:
            raise Refusal(400, "BadRequest", f"unable to parse requirement: found '=', in {query['labelSelector']}")
    for key, _, _ in fields:
        if key not in _FIELDS.get(kind, ()) and key not in ("metadata.name", "metadata.namespace"):
            raise Refusal(400, "BadRequest", f"field label not supported: {key}")

    def chosen(item: Json) -> bool:
        there = item["metadata"].get("labels") or {}
        if any(there.get(key) != value for key, _, value in labels):
            return False
        for key, _, value in fields:
            place: Any = item
            for part in key.split("."):
                place = (place or {}).get(part)
            if place != value:
                return False
        return True

    return chosen


def _checked(kind: str, namespace: str, body: Any) -> Json:
    """Looks a new object over, as a real server does; what it does not know it drops."""
    _, group, item_kind = GROUPS[kind]
    if not isinstance(body, dict) or body.get("kind") != item_kind or body.get("apiVersion") != group:
        raise Refusal(400, "BadRequest", f"this is no {item_kind} of {group}")
    meta = body.get("metadata") or {}
    if meta.get("namespace", namespace) != namespace:
        raise Refusal(400, "BadRequest", "the namespace of the object does not match the request")
    name = meta.get("name", "")
    if not _NAME.fullmatch(name):
        raise Refusal(422, "Invalid", f'{item_kind} "{name}" is invalid: metadata.name: Invalid value')
    for key, value in (meta.get("labels") or {}).items():
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            raise Refusal(422, "Invalid", f'{item_kind} "{name}" is invalid: metadata.labels: {key}={value!r}')
    if kind == "jobs":
        _check_job(name, body)
    return body


def _check_job(name: str, body: Json) -> None:
    """Refuses what the decoder of a real server cannot read (400), and what its validation does not take (422)."""
    pod = body["spec"]["template"]["spec"]
    containers = pod.get("containers") or []
    if not isinstance(containers, list):
        raise Refusal(400, "BadRequest", "json: cannot unmarshal into Go struct field PodSpec.containers")
    for container in [*containers, *(pod.get("initContainers") or [])]:
        for variable in container.get("env") or ():
            if not isinstance(variable.get("value", ""), str):
                raise Refusal(400, "BadRequest", "json: cannot unmarshal number into Go struct field EnvVar.value")
        for amounts in (container.get("resources") or {}).values():
            for amount in amounts.values():
                if not _QUANTITY.fullmatch(str(amount)):
                    raise Refusal(400, "BadRequest", "quantities must match the regular expression")

    def refuse(place: str, why: str) -> Refusal:
        return Refusal(422, "Invalid", f'Job.batch "{name}" is invalid: spec.template.{place}: {why}')

    if len(name) > 63:
        raise refuse("labels", "must be no more than 63 characters")
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        raise refuse("spec.restartPolicy", "Unsupported value")
    if not containers:
        raise refuse("spec.containers", "Required value")
    for container in [*containers, *(pod.get("initContainers") or [])]:
        if not container.get("image"):
            raise refuse("spec.containers[0].image", "Required value")


def _merge(item: Json, patch: Json) -> None:
    for key, value in patch.items():
        if value is None:
            item.pop(key, None)
        elif isinstance(value, dict) and isinstance(item.get(key), dict):
            _merge(item[key], value)
        else:
            item[key] = value
