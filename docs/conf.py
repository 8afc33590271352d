# How the documentation is built: `make docs`.
from __future__ import annotations

from importlib.metadata import version as version_of

project = "pinfold"
author = "The pinfold authors"
project_copyright = "The pinfold authors"
version = release = version_of("pinfold")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]


html_theme = "furo"
html_title = f"pinfold {version}"
html_static_path = ["_static"]
html_css_files = ["pinfold.css"]
html_copy_source = False
