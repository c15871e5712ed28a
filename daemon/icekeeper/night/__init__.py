"""What one run does: the order of its tasks, their attempts, and each stage. The outside world is behind ports.py."""
