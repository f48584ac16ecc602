"""What travels: messages, tensors as bytes, quantisation, noise and what it buys."""
