"""The engine: states, the compiled graph, the state machine of a task run, and what runs them.

`graph`, `transitions` and `state` are pure. `run_books` keeps the books of one flow run, `run_loop` has it worked off,
`task_runner` works on task runs that need more than a call, `flow_runner` is the way in. Nothing here knows the control
plane: a `RunSink` is told what happens.
"""
