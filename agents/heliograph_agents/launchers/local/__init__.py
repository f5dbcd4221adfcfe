"""The local launcher: a supervisor and a flow process on the agent's own host."""
