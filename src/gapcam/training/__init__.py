"""Training on class labels: what is read, how it is fitted, what a run folder holds."""
