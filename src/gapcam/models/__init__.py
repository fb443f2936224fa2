"""Networks and the model file: what the engines run and what it says of itself."""
