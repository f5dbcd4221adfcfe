"""The Kubernetes launcher: one Job and one Secret for each attempt, in the namespaces that the agent is given."""
