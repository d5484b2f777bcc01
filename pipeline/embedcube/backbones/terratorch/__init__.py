"""The backbones of TerraTorch's registry: TerraMind, Prithvi and others."""
