"""The profile "superres": a small picture in a standard format, and a network that makes the large one of it."""
