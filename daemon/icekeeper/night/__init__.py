"""What one run does: the order of its tasks, their attempts, and what each stage does. Engines are behind ports.py."""
