"""Pushing a finished turn to the devices of its user."""
