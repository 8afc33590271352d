"""The edge: each module is a bus, found by name, imported when it is first asked for."""
