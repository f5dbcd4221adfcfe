"""The same things to do for several orchestrators, each in an environment of its own."""
