"""ONNX classifiers: made ready, traced, quantized."""
