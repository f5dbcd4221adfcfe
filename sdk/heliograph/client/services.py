"""The generated stubs of every service that people's tools call, on one channel."""

from __future__ import annotations

import grpc

from heliograph.api.v1 import (
    admin_service_pb2_grpc,
    agent_service_pb2_grpc,
    flow_run_service_pb2_grpc,
    flow_service_pb2_grpc,
    log_service_pb2_grpc,
    project_service_pb2_grpc,
    schedule_service_pb2_grpc,
    task_run_service_pb2_grpc,
    token_service_pb2_grpc,
)


class Services:
    """Stubs by short names."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.flow_runs = flow_run_service_pb2_grpc.FlowRunServiceStub(channel)
        self.flows = flow_service_pb2_grpc.FlowServiceStub(channel)
        self.logs = log_service_pb2_grpc.LogServiceStub(channel)
        self.projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.schedules = schedule_service_pb2_grpc.ScheduleServiceStub(channel)
        self.task_runs = task_run_service_pb2_grpc.TaskRunServiceStub(channel)
        self.tokens = token_service_pb2_grpc.TokenServiceStub(channel)
