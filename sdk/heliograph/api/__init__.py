"""The API of the control plane."""
