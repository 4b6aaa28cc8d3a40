"""Sphinx configuration."""

import aiomilter

project = "aiomilter"
author = "The aiomilter authors"
copyright = "The aiomilter authors"
version = release = aiomilter.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
# No intersphinx: the build must not depend on a network.

html_theme = "furo"
html_title = f"aiomilter {release}"
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 3

default_role = "code"  # `name` in a docstring is code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an "Attributes:" section must not declare each attribute a second time
