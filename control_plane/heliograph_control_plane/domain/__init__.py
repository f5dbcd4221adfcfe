"""The rules of the control plane: pure functions and tables, without I/O, threads or a clock of their own."""
