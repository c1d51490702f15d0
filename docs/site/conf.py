# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds the site; docs/site/build.py calls it."""

project = "Image Puller"
project_copyright = "Image Puller contributors"
extensions = ["myst_parser", "sphinx.ext.intersphinx", "sphinx_antsibull_ext"]
# Beside the pages: build.py writes it.
intersphinx_mapping = {"ansible": ("https://docs.ansible.com/ansible/latest/", "ansible.inv")}
html_theme = "furo"
html_title = "Image Puller"
html_copy_source = False
myst_heading_anchors = 4  # Pages link to headings, as they do where the repository is read.
