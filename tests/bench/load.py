"""Clients that load a control plane, as a process of their own: `python -m tests.bench.load SCENARIO ADDRESS …`.

Reads the token from standard input and prints one JSON object: how many, in what time, and the calls' latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.api.v1 import run_reporting_service_pb2 as reporting_pb
from heliograph.api.v1 import states_pb2

_API = "/heliograph.api.v1"


class Client:
    """One channel with a token."""

    def __init__(self, address: str, token: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._metadata = (("authorization", f"Bearer {token}"),)
        self.latencies: list[float] = []
        self.count = 0

    async def call(self, method: str, request: Any, answer: Any) -> Any:
        """Makes a unary call and notes how long it took."""
        unary = self.channel.unary_unary(
            f"{_API}.{method}", type(request).SerializeToString, answer.FromString, _registered_method=True
        )
        start = time.perf_counter()
        result = await unary(request, timeout=30, metadata=self._metadata)
        self.latencies.append(time.perf_counter() - start)
        return result


async def create(client: Client, options: argparse.Namespace, number: int) -> None:
    """Creates runs one after the other, or some at a time in one call."""
    while options.at_once > 1 and client.count < options.count // options.clients:
        batch = runs_pb.BatchCreateFlowRunsRequest(parent="projects/p")
        for _ in range(options.at_once):
            batch.requests.add(flow="projects/p/flows/f", request_id=uuid.uuid4().hex, parameters_json='{"n": 1}')
        await client.call("FlowRunService/BatchCreateFlowRuns", batch, runs_pb.BatchCreateFlowRunsResponse)
        client.count += options.at_once
    while client.count < options.count // options.clients:
        request = runs_pb.CreateFlowRunRequest(
            parent="projects/p", flow="projects/p/flows/f", request_id=uuid.uuid4().hex, parameters_json='{"n": 1}'
        )
        await client.call("FlowRunService/CreateFlowRun", request, runs_pb.FlowRun)
        client.count += 1


async def claim(client: Client, options: argparse.Namespace, number: int) -> None:
    """Leases runs, some at a time, and accepts each when asked to."""
    agent = f"agents/a{number}"

    async def accept(lease: agents_pb.FlowRunLease) -> None:
        request = agents_pb.AcceptFlowRunRequest(agent=agent, flow_run=lease.flow_run.name, epoch=lease.epoch)
        await client.call("AgentService/AcceptFlowRun", request, agents_pb.AcceptFlowRunResponse)

    begun = time.perf_counter()
    while client.count < options.count // options.clients:
        if options.rate:  # as many as are asked for and no more: how long a call takes that does not queue by itself
            turn = client.count * options.clients + number * options.at_once
            due = begun + turn / options.rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
        request = agents_pb.LeaseFlowRunsRequest(agent=agent, request_id=uuid.uuid4().hex, max_runs=options.at_once)
        given = await client.call("AgentService/LeaseFlowRuns", request, agents_pb.LeaseFlowRunsResponse)
        if options.accept:
            await asyncio.gather(*(accept(lease) for lease in given.leases))
        client.count += len(given.leases)


async def report(client: Client, options: argparse.Namespace, number: int) -> None:
    """Takes one run and reports events of it in batches, a few of them under way at once."""
    agent = f"agents/a{number}"
    request = agents_pb.LeaseFlowRunsRequest(agent=agent, request_id=uuid.uuid4().hex, max_runs=1)
    (lease,) = (await client.call("AgentService/LeaseFlowRuns", request, agents_pb.LeaseFlowRunsResponse)).leases
    accepting = agents_pb.AcceptFlowRunRequest(agent=agent, flow_run=lease.flow_run.name, epoch=lease.epoch)
    accepted = await client.call("AgentService/AcceptFlowRun", accepting, agents_pb.AcceptFlowRunResponse)
    client.latencies.clear()
    size = options.at_once
    batches = []
    for first in range(1, options.count // options.clients, size):
        events = [
            reporting_pb.RunEvent(
                task_run=reporting_pb.TaskRunEvent(
                    task=sequence // 2 % 100,
                    map_index=sequence // 200,
                    state=states_pb2.STATE_SUCCESS if sequence % 2 else states_pb2.STATE_RUNNING,
                    time_unix_micros=1_790_000_000_000_000 + sequence,
                    run_count=1,
                )
            )
            for sequence in range(first, first + size)
        ]
        batch = reporting_pb.RunEventBatch(
            flow_run=lease.flow_run.name, epoch=lease.epoch, first_sequence=first, events=events
        )
        batches.append(batch.SerializeToString())
    await client.ready()  # type: ignore[attr-defined]
    stream = client.channel.stream_stream(
        f"{_API}.RunReportingService/StreamRunEvents", None, reporting_pb.RunEventAck.FromString,
        _registered_method=True,
    )(metadata=(("authorization", f"Bearer {accepted.run_token}"),))  # fmt: skip
    sent: list[float] = []
    room = asyncio.Semaphore(4)

    async def send() -> None:
        for batch in batches:
            await room.acquire()
            sent.append(time.perf_counter())
            await stream.write(batch)

    sending = asyncio.create_task(send())
    acked = 0
    while acked < len(batches) * size:
        ack = await stream.read()
        for done in range(acked // size, ack.acked_sequence // size):
            client.latencies.append(time.perf_counter() - sent[done])
            room.release()
        acked = ack.acked_sequence
    await sending
    await stream.done_writing()
    client.count = acked


SCENARIOS: dict[str, Callable[[Client, argparse.Namespace, int], Awaitable[None]]] = {
    "create": create,
    "claim": claim,
    "report": report,
}


async def load(options: argparse.Namespace, token: str) -> dict[str, float]:
    """Runs the clients; returns figures of all of them together. Seconds."""
    clients = [Client(options.address, token) for _ in range(options.clients)]
    waiting = 0
    gate = asyncio.Event()
    started = 0.0

    async def ready() -> None:
        nonlocal waiting, started
        waiting += 1
        if waiting == len(clients):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            started = time.perf_counter()
            gate.set()
        await gate.wait()

    async def one(client: Client, number: int) -> None:
        await client.channel.channel_ready()
        client.ready = ready  # type: ignore[attr-defined]
        if options.scenario != "report":
            await ready()
        await SCENARIOS[options.scenario](client, options, number)

    await asyncio.gather(*(one(client, number) for number, client in enumerate(clients)))
    seconds = time.perf_counter() - started
    for client in clients:
        await client.channel.close()
    latencies = sorted(latency for client in clients for latency in client.latencies)
    return {
        "count": sum(client.count for client in clients),
        "seconds": seconds,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
    }


def main() -> None:
    """Reads the arguments, waits for a line on standard input when the clients are ready, and loads the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("address")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--accept", action="store_true")
    parser.add_argument("--rate", type=float, default=0.0, help="claims a second of all clients; 0: as many as can be")
    options = parser.parse_args()
    token = sys.stdin.readline().strip()
    print(json.dumps(asyncio.run(load(options, token))), flush=True)


if __name__ == "__main__":
    main()
