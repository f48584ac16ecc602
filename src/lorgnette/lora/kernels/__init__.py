"""Forward and backward passes of low-rank layers, fused for speed and memory."""
