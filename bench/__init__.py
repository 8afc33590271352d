"""One benchmark for each speed claim of pinfold; run ``python -m bench``."""
