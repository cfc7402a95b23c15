"""What makes one process a node among many: its link to Redis, the queue of turns, and what nodes tell each other."""
