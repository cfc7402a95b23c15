"""What the gateway must not forget."""
