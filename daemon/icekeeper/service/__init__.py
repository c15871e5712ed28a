"""The shell: wires the parts, and knows signals, HTTP, files and terminals. No rule of the night lives here."""
