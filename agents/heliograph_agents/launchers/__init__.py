"""Launchers: one package for each kind of infrastructure."""
