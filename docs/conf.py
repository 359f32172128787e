"""How Sphinx makes the site: ``pip install '.[docs]' && sphinx-build -W docs site``."""

import os

# Shapes are shown as they are written, and the renderer's kernels are neither compiled nor run.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

from gvit import __version__

project = "GViT"
copyright = "the authors of gvit, Apache-2.0"
version = release = __version__.partition("+")[0]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["results", "examples"]

# Pages are Markdown that GitHub shows, too: headings are targets of links, code is not run here (the tests do).
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # nothing is loaded from other servers

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a class once, not as members again

html_theme = "furo"
html_title = "GViT"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/logo.svg"
html_logo = "_static/logo.svg"
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
