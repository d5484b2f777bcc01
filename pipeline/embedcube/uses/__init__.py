"""What is built from cubes, or served: each file is one use."""
