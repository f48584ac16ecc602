"""The only part that knows Flower: federation on several machines, or simulated on one."""
