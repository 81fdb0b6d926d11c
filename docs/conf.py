"""How Sphinx makes the site; `make docs`."""

import tfsparse

project = "tfsparse"
author = "the tfsparse authors"
version = release = tfsparse.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["report.schema.json"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reference", "Source"]
html_theme = "furo"
html_title = f"tfsparse {version}"
html_show_sphinx = False
copybutton_prompt_text = "$ "
