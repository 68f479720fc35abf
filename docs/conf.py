"""How Sphinx builds the site: `make docs`. Nothing is fetched; the pages are readable as they are, too."""

project = "optimum-htp"
copyright = "the optimum-htp authors"
extensions = ["myst_parser"]
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "optimum-htp"
html_static_path = ["images"]
html_theme_options = {"navigation_with_keys": True}
# Links to files of the repository that are no pages of the site.
suppress_warnings = ["myst.xref_missing"]
