"""The site: Markdown pages, executed notebooks and a reference made of docstrings.

make docs     # build/html, a warning is an error
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from names import returned

from ppl_vae import __version__

project = "ppl-vae"
author = project_copyright = "the ppl-vae developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "myst_nb",
    "docstrings",
    "formulas",
]
exclude_patterns = ["reproductions"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [
    # types of other libraries and those of ours that are not public, in signatures
    (r"py:.*", r"(?!ppl_vae\.).*"),
    (r"py:class", r"ppl_vae\.\w+(\.\w+)*"),
]

# Pages
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https"]

# Notebooks run once, when they or the settings have changed; an error ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parents[1] / "build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_output_stderr = "remove"
nb_merge_streams = True

# Reference
autosummary_generate = True
autosummary_context = {"returned": returned()}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]

html_theme = "furo"
html_title = f"ppl-vae {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5c84", "color-brand-content": "#0b5c84"},
    "dark_css_variables": {"color-brand-primary": "#6cb8e0", "color-brand-content": "#6cb8e0"},
}
