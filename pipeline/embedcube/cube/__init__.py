"""The finished cube: its format, reader, provenance and pictures."""
