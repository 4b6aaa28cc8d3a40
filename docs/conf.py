"""Sphinx configuration."""

import sys
from pathlib import Path

import aiomilter

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "aiomilter"
author = "The aiomilter authors"
copyright = "The aiomilter authors"
version = release = aiomilter.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "aiomilter_docs",
]
# No intersphinx: the build must not depend on a network.

html_theme = "furo"
html_title = "aiomilter"
html_static_path = ["_static"]
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
html_show_sphinx = False
html_css_files = ["aiomilter.css"]
html_favicon = "_static/favicon.svg"
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring is code, and a link where there is such a name
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an "Attributes:" section must not declare each attribute a second time

# make dist, and `sphinx-build -b man`: the same text as on the pages of the commands.
man_pages = [
    (f"man/{name}", name, description, author, 1)
    for name, description in [
        ("aiomilter", "run milters, and question any milter"),
        ("aiomilter-run", "run a milter, from a class in a module"),
        ("aiomilter-check", "feed a message to a milter, and show what becomes of it"),
        ("aiomilter-trace", "stand between an MTA and a milter, and show every packet"),
        ("aiomilter-replay", "send a recorded session to a milter, and compare its answers"),
        ("aiomilter-decode", "show the packets of a record"),
        ("aiomilter-bench", "put a milter under load"),
    ]
]
