"""The families of networks, a file each, as plain nn.Modules that name their measured layers and blocks."""
