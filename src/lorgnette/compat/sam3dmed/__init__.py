"""Names of the original LoRA fine-tuning of SAM 3D's mesh decoder on medical volumes, as thin fronts."""
