"""`python -m heliograph_control_plane`: the commands of `heliograph server`."""

import sys

from heliograph.cli.boundary import run_command
from heliograph_control_plane.cli import server

if __name__ == "__main__":
    raise SystemExit(run_command(server, sys.argv[1:]))
