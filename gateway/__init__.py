"""The Agentline gateway: the server between phones and AI agents."""
