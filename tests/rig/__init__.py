"""A throw-away guest with an IOMMU and PCI devices behind it; `python -m tests.rig`."""
