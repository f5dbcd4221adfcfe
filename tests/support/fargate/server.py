"""The double's wire: AWS JSON 1.1 on loopback. What is not ECS goes to moto: VPCs, logs, S3."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.support.docker_engine import DockerEngine
from tests.support.fargate.definitions import REGION, Definitions, check_size
from tests.support.fargate.script import Script
from tests.support.fargate.shapes import ServiceError, check_answer, check_error, check_headers, check_request, wire
from tests.support.fargate.task import Task

TARGET = "AmazonEC2ContainerServiceV20141113."
ACCESS_KEY, SECRET_KEY = "AKIAHELIOGRAPHTESTS0", "not-a-secret-but-long-enough-for-one"
PAGE = 100
MAX_OVERRIDES = 8192


class Fargate:
    """One ECS endpoint.

    Args:
        engine: Where containers run.

    Attributes:
        url: Where it listens.
        script: What goes wrong.
        requests: Every request as it came: operation and body.
        tasks: Every task that was made.
        clusters: The clusters that there are.
        access_keys: Whose calls it takes.
        binds: What tasks see of this host, from its path to theirs.
    """

    def __init__(self, engine: DockerEngine) -> None:
        self.engine = engine
        self.script = Script()
        self.definitions = Definitions()
        self.requests: list[tuple[str, bytes]] = []
        self.tasks: list[Task] = []
        self.clusters = {"default"}
        self.access_keys = {ACCESS_KEY}
        self.binds: dict[str, str] = {}
        self._tokens: dict[str, tuple[dict[str, Any], list[Task]]] = {}
        self._lock = threading.Lock()
        self._moto: Any = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="fargate", daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which an AWS client may call it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }  # fmt: skip

    def client(self, service: str) -> Any:
        """Returns a client of AWS as this double has it."""
        import boto3

        make: Any = boto3.client
        return make(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )  # fmt: skip

    def count(self, operation: str) -> int:
        """Returns how often an operation was called."""
        return sum(name == operation for name, _ in self.requests)

    def task(self, arn: str) -> Task:
        """Returns a task."""
        return next(one for one in self.tasks if one.arn == arn)

    def stop(self) -> None:
        """Ends all tasks, and the server."""
        self.script.clear()
        for task in self.tasks:
            task.stop("UserInitiated", "the test is over")
        for task in self.tasks:
            task.wait(60)
        self._server.shutdown()
        self._server.server_close()
        if self._moto is not None:
            self._moto.stop()

    # --- operations ----------------------------------------------------------------------------------------------

    def answer(self, operation: str, document: dict[str, Any]) -> dict[str, Any]:
        """Does a call."""
        check_request(operation, document)
        if (error := self.script.error(operation)) is not None:
            raise error
        known: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "RegisterTaskDefinition": self.definitions.register,
            "DescribeTaskDefinition": self.definitions.describe,
            "RunTask": self._run_task,
            "StopTask": self._stop_task,
            "DescribeTasks": self._describe_tasks,
            "ListTasks": self._list_tasks,
        }
        if operation not in known:
            raise ServiceError("ValidationException", f"the double has no {operation}")
        if "cluster" in document or operation.endswith(("Task", "Tasks")):
            cluster = str(document.get("cluster") or "default").rpartition("/")[2]
            if cluster not in self.clusters:
                raise ServiceError("ClusterNotFoundException", "Cluster not found.")
        return known[operation](document)

    def _run_task(self, request: dict[str, Any]) -> dict[str, Any]:
        definition = self._runnable(request)
        failures = self.script.unplaced()
        if failures:
            return {"tasks": [], "failures": failures}
        token = request.get("clientToken", "")
        with self._lock:
            if token and token in self._tokens and not self.script.ignore_client_tokens:
                asked, made = self._tokens[token]
                if asked != request:
                    raise ServiceError(
                        "ConflictException", "The clientToken was used with other parameters.",
                        resourceIds=[task.arn for task in made],
                    )  # fmt: skip
            else:
                made = [
                    Task(self.engine, definition, request, self.binds, self.script.misfortune(), self._keep_output)
                    for _ in range(request.get("count", 1))
                ]
                self.tasks += made
                self._tokens[token] = (request, made)
        return {"tasks": [self._shown(task, tags=True) for task in made], "failures": []}

    def _runnable(self, request: dict[str, Any]) -> dict[str, Any]:
        def refuse(message: str) -> None:
            raise ServiceError("InvalidParameterException", message)

        definition = self.definitions.find(request["taskDefinition"])
        if definition is None or definition["status"] != "ACTIVE":
            message = "TaskDefinition is inactive" if definition else "TaskDefinition not found."
            raise ServiceError("ClientException", message)
        if request.get("launchType") and request.get("capacityProviderStrategy"):
            refuse("Specifying both a launch type and capacity provider strategy is not supported.")
        if not 1 <= request.get("count", 1) <= 10:
            refuse("Count must be between 1 and 10.")
        if len(request.get("clientToken", "")) > 64 or len(request.get("startedBy", "")) > 128:
            refuse("clientToken or startedBy is too long.")
        if definition.get("networkMode") == "awsvpc" and not request.get("networkConfiguration"):
            refuse("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
        overrides = request.get("overrides") or {}
        if len(json.dumps(overrides)) > MAX_OVERRIDES:
            refuse("Overrides are too long.")
        names = {one["name"] for one in definition["containerDefinitions"]}
        for one in overrides.get("containerOverrides") or ():
            if one.get("name") not in names:
                refuse(f"Override for container named {one.get('name')} is not a container in the TaskDefinition.")
        if request.get("launchType", "FARGATE") == "FARGATE":
            cpu = overrides.get("cpu") or definition.get("cpu")
            check_size(cpu, overrides.get("memory") or definition.get("memory"), "InvalidParameterException")
        tags = [one.get("key", "") for one in request.get("tags") or ()]
        if len(tags) > 50 or len(set(tags)) != len(tags) or any(tag.startswith("aws:") for tag in tags):
            refuse("There are too many tags, or a key is reserved or twice there.")
        return definition

    def _stop_task(self, request: dict[str, Any]) -> dict[str, Any]:
        task = self._named(request["task"])
        if task is None:
            raise ServiceError("InvalidParameterException", "The referenced task was not found.")
        task.stop("UserInitiated", request.get("reason") or "Task stopped by user")
        return {"task": self._shown(task, tags=True)}

    def _describe_tasks(self, request: dict[str, Any]) -> dict[str, Any]:
        if not 1 <= len(request["tasks"]) <= PAGE:
            raise ServiceError("InvalidParameterException", "Tasks cannot be empty, nor more than 100.")
        tags = "TAGS" in request.get("include", ())
        found, failures = [], []
        for name in request["tasks"]:
            task = self._named(name)
            if task is None:
                failures.append({"arn": name, "reason": "MISSING"})
            else:
                found.append(self._shown(task, tags=tags))
        return {"tasks": found, "failures": failures}

    def _list_tasks(self, request: dict[str, Any]) -> dict[str, Any]:
        status = request.get("desiredStatus", "RUNNING")
        arns = [
            task.arn
            for task in self.tasks
            if task.document["desiredStatus"] == status
            and ("startedBy" not in request or task.document["startedBy"] == request["startedBy"])
        ]
        start = int(request.get("nextToken", 0))
        size = request.get("maxResults", PAGE)
        answer: dict[str, Any] = {"taskArns": arns[start : start + size]}
        return answer | ({"nextToken": str(start + size)} if start + size < len(arns) else {})

    def _named(self, name: str) -> Task | None:
        return next((one for one in self.tasks if name in (one.arn, one.id)), None)

    @staticmethod
    def _shown(task: Task, *, tags: bool) -> dict[str, Any]:
        return {key: value for key, value in task.document.items() if value is not None and (tags or key != "tags")}

    # --- what is not ECS -----------------------------------------------------------------------------------------

    def _keep_output(self, definition: Mapping[str, Any], task_id: str, lines: list[str]) -> None:
        """Puts what a container printed where its definition says."""
        logs = definition.get("logConfiguration") or {}
        if logs.get("logDriver") != "awslogs" or not lines:
            return
        options = logs["options"]
        group, stream = options["awslogs-group"], f"{options['awslogs-stream-prefix']}/{definition['name']}/{task_id}"
        client = self.client("logs")
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_group(logGroupName=group)
        client.create_log_stream(logGroupName=group, logStreamName=stream)
        import time

        events = [{"timestamp": int(time.time() * 1000), "message": line or " "} for line in lines]
        client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, bytes]:
        """Has moto answer."""
        with self._lock:
            if self._moto is None:
                from moto.server import ThreadedMotoServer

                self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
                self._moto.start()
            host, port = self._moto.get_host_and_port()
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


HOP_BY_HOP = ("content-length", "connection", "transfer-encoding", "date", "server")


def _handler(double: Fargate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            target = self.headers.get("X-Amz-Target", "")
            if not target.startswith(TARGET):
                self._forward(body)
                return
            operation = target.removeprefix(TARGET)
            double.requests.append((operation, body))
            try:
                check_headers(self.headers, double.access_keys)
                found = double.answer(operation, json.loads(body or b"{}"))
                check_answer(operation, found)
                lost = double.script.loses(operation)
            except ServiceError as error:
                check_error(operation, error)
                document = {"__type": error.code, "message": error.message, **error.fields}
                self._send(error.status, json.dumps(document).encode(), ("x-amzn-errortype", error.code))
                return
            if lost:
                self.close_connection = True  # as when a connection is cut: the client knows of nothing
                self.connection.close()
                return
            self._send(200, json.dumps(wire(found)).encode())

        def do_GET(self) -> None:
            self._forward(b"")

        def do_PUT(self) -> None:
            self._forward(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def _forward(self, body: bytes) -> None:
            double.requests.append((f"{self.command} {self.path}", body))
            status, headers, found = double.forward(self.command, self.path, dict(self.headers), body)
            kept = [(key, value) for key, value in headers if key.lower() not in HOP_BY_HOP]
            self._send(status, found, *kept)

        def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            if not any(key.lower() == "content-type" for key, _ in headers):
                self.send_header("Content-Type", "application/x-amz-json-1.1")
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@pytest.fixture(scope="session")
def fargate(docker_engine: DockerEngine) -> Iterator[Fargate]:
    """The double of this test process."""
    double = Fargate(docker_engine)
    try:
        yield double
    finally:
        double.stop()
