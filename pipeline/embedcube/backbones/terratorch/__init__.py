"""The backbone `terratorch`: models of TerraTorch's registry, such as TerraMind and Prithvi."""
