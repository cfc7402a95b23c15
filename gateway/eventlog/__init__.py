"""The log of events of each thread: append, read from a position, follow."""
