"""The network of tasks that have an interface of their own: as the agent says, else that of the default VPC."""

from __future__ import annotations

import threading
from typing import Any

from heliograph.engine.codes import FailureCode
from heliograph_agents.launcher import LaunchError
from heliograph_agents.launchers.ecs.aws import Aws
from heliograph_agents.launchers.ecs.options import EcsOptions


class Network:
    """Finds the network of tasks, and remembers it. Threads may share it.

    Args:
        aws: The account.
        options: What the agent's owner sets.
    """

    def __init__(self, aws: Aws, options: EcsOptions) -> None:
        self._aws, self._options = aws, options
        self._found: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def configuration(self) -> dict[str, Any]:
        """Returns `networkConfiguration` of `RunTask`.

        Raises:
            LaunchError: There is no default VPC, or it has no subnets.
            OSError: AWS does not say.
        """
        with self._lock:
            if self._found is None:
                self._found = {"awsvpcConfiguration": self._awsvpc()}
            return self._found

    def _awsvpc(self) -> dict[str, Any]:
        options = self._options
        subnets = list(options.subnets) or self._default_subnets()
        public = options.assign_public_ip if options.assign_public_ip is not None else not options.subnets
        found: dict[str, Any] = {"subnets": subnets, "assignPublicIp": "ENABLED" if public else "DISABLED"}
        if options.security_groups:
            found["securityGroups"] = list(options.security_groups)
        return found

    def _default_subnets(self) -> list[str]:
        default = [{"Name": "is-default", "Values": ["true"]}]
        vpcs = self._aws.call("ec2", "describe_vpcs", Filters=default)["Vpcs"]
        if not vpcs:
            raise LaunchError(
                "the account has no default VPC in this region: start the agent with --subnet and --security-group",
                FailureCode.LAUNCH_SETTINGS,
            )
        of_it = [{"Name": "vpc-id", "Values": [str(vpcs[0]["VpcId"])]}]
        subnets = self._aws.call("ec2", "describe_subnets", Filters=of_it)["Subnets"]
        if not subnets:
            raise LaunchError("the default VPC has no subnets: give --subnet", FailureCode.LAUNCH_SETTINGS)
        return [str(one["SubnetId"]) for one in subnets][:16]
