"Sphinx settings. `docs/convert.py` copies this file beside the pages it makes in `build/docs/`."
from importlib.metadata import version as installed

project = "tokenstudy"
author = "The tokenstudy authors"
copyright = author
version = release = installed("tokenstudy")

extensions = ["myst_nb", "sphinx.ext.mathjax"]
nb_execution_mode = "off"
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
mathjax_path = "mathjax.js"
mathjax3_config = {"options": {"enableMenu": False}}
numfig = True
language = "en"

html_theme = "furo"
html_title = f"tokenstudy {version}"
html_static_path = ["_static"]
html_copy_source = False
html_show_sourcelink = False
templates_path = []
