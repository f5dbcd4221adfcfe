"""Generated from `proto/heliograph/api/v1`."""
