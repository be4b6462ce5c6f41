"""Segmentation as a sequence of decisions: environments as pure functions, agents that learn in them as Tasks."""
