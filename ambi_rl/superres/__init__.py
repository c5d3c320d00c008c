"""The profile "superres": a small picture in a standard format, and a network that enlarges it."""
