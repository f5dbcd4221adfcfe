"""heliograph: see README."""
