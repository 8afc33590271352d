"""User-space drivers: they know registers (`mmio.Mmio`) and pins, and nothing of what is behind."""
