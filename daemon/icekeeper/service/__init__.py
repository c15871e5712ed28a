"""The assembly: builds the components of the daemon, starts, runs and stops them. No rule of a night lives here."""
