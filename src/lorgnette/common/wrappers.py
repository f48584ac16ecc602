"""Words that PyTorch's wrappers (compiled, data-parallel, averaged) put into names. Imports no torch."""

from __future__ import annotations

WRAPPERS = {
    "torch._dynamo.eval_frame": ("OptimizedModule", "_orig_mod"),
    "torch.nn.parallel.data_parallel": ("DataParallel", "module"),
    "torch.nn.parallel.distributed": ("DistributedDataParallel", "module"),
    "torch.optim.swa_utils": ("AveragedModel", "module"),
    "torch.distributed.fsdp.fully_sharded_data_parallel": ("FullyShardedDataParallel", "_fsdp_wrapped_module"),
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper": ("CheckpointWrapper", "_checkpoint_wrapped_module"),
}
"""Where a wrapper is defined -> its class, and its name for what it wraps."""
WORDS = tuple(dict.fromkeys(word for _, word in WRAPPERS.values()))


def without_words(name: str) -> str:
    """A name without any wrapper's word."""
    return ".".join(part for part in name.split(".") if part not in WORDS)
