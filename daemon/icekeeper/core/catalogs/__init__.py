"""What a catalog needs beside its settings."""
