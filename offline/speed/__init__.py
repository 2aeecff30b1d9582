"""What `offline.benchmark` stands on: the arms, whether they are equal, their rounds, and what the machine can do."""
