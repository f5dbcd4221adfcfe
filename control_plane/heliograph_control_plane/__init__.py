"""The control plane: metadata of flows and runs, over gRPC."""
