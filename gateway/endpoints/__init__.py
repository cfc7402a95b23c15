"""Where requests and sockets come in: I/O only. What they mean is decided further in."""
