"""Several adapters on one model: by name, combined, stacked, one for each sample."""
