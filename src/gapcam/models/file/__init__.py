"""The model file's graph: a network, its head, its maps, put together."""
