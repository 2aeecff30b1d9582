"""What `offline.pareto` is made of: points of accuracy, bytes and time, the verdicts on them, tables and pictures."""
