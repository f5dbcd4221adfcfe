"""Agents: lease runs, launch them in the user's infrastructure, and report what became of them."""
