"""Helpers of authors and of the other modules, one subject each."""
