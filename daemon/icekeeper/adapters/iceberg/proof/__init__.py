"""The proof `files` of an audit: each file of a window is there, whole, and holds the rows that its manifest claims."""
