"""The Python client of the Agentline gateway."""
