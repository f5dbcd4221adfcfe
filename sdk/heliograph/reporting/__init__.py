"""The outbox: how a run's events reach the line without slowing the run.

The flow process appends (`OutboxSink`), one thread of it writes records into the run's directory, and the supervisor
tails them, ships them and drops what the control plane acknowledged. The path of one event:

1. `sink.OutboxSink.task_state`: an append to a deque, on the task's thread.
2. `writer.OutboxWriter`: encodes and writes records, on its own thread; then pokes the supervisor through a pipe.
3. `lanes.LaneReader`: finds whole records in the segment files, in the supervisor.
4. `batches.event_batch`: puts the raw records into one `RunEventBatch`, without parsing them.
"""
