"""What the control plane does by itself, one loop a file. Only the leader of all replicas runs them."""
