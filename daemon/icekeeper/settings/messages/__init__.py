"""What is said about settings: mistakes, warnings, explanations, and what is in force."""
