"""Where turns run: in this process."""
