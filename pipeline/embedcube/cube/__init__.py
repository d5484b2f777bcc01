"""The finished cube: format, reader, provenance and pictures."""
