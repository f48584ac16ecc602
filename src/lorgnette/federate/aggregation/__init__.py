"""How the adapters of many clients become one: pure tensors."""
