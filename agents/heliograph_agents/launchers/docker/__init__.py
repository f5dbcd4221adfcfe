"""The Docker launcher: one container and one volume for each attempt, on one Docker Engine."""
