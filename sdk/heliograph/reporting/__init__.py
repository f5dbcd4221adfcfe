"""The outbox: how a run's events reach the line without slowing the run.

The flow process appends records to files of the run's directory, and the supervisor tails them, ships them and drops
what the control plane acknowledged. The path of one event:

1. `sink.RunReporter.task_state`: on the task's thread.
2. `writer.OutboxWriter.put_state`: encodes and writes the record, still there; a thread pokes the supervisor.
3. `lanes.LaneReader`: finds whole records in the segment files, in the supervisor.
4. `batches.event_batch`: puts the raw records into one `RunEventBatch`, without parsing them.
"""
