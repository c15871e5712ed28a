"""Exceptions from the JVM: how they are read, what each class means, which jar is missing."""
