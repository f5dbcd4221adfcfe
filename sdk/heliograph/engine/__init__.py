"""The engine: states, the compiled graph, the state machine of a task run, and what runs them.

`graph`, `transitions` and `state` are pure. `run_loop` keeps the books of one flow run, `task_runner` works on task
runs that need more than a call, `flow_runner` is the way in. Nothing here knows the control plane: a `RunSink` is told
what happens.
"""
