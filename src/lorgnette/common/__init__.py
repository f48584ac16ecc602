"""The ground: files, tensors, text, devices, stores. Knows nothing of the rest of the house."""
