"""Software devices: they have registers like hardware and reach memory only through a BusMaster."""
