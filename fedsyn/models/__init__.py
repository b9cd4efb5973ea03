"""Stacked layers, retrieval networks, generator and critic: every parameter has a client axis."""
