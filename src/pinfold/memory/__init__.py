"""Pages and ranges, with no idea of handles, rights or buses."""
