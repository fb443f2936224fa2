"""PyTorch classifiers: copied, traced, cut at the head, exported."""
