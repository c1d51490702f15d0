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
# Furo's light and dark, which a reader may also choose on the page, for the tables of the reference, too: by itself the
# extension that draws these knows only what the browser prefers, or light.
antsibull_ext_color_scheme = "none"
html_theme_options = {
    "light_css_variables": {
        "sidebar-item-font-size": "0.75rem",  # so that the names of the modules stay in one piece
        "antsibull-links-background": "var(--color-brand-primary)",
        "antsibull-links-background-active": "var(--color-brand-content)",
        "antsibull-links-focus-outline": "var(--color-foreground-primary)",
        "antsibull-links-text": "var(--color-background-primary)",
        "antsibull-table-background-header": "var(--color-background-hover)",
        "antsibull-table-background-even": "var(--color-background-secondary)",
        "antsibull-table-background-odd": "var(--color-background-primary)",
        "antsibull-table-border": "var(--color-background-border)",
        "antsibull-narrowtable-background": "var(--color-background-hover)",
        "antsibull-option-type": "#6f2c91",
        "antsibull-option-elements": "#6f2c91",
        "antsibull-option-required": "#b30000",
        "antsibull-option-version-added": "#21632c",
        "antsibull-option-aliases": "#21632c",
        "antsibull-option-default": "#0b45c4",
        "antsibull-option-sample": "#0b45c4",
        "antsibull-option-sample-header": "var(--color-foreground-primary)",
        "antsibull-attribute-support-full": "#21632c",
        "antsibull-attribute-support-partial": "#6b5b00",
        "antsibull-attribute-support-none": "#b30000",
        "antsibull-attribute-support-na": "inherit",
        "antsibull-deprecation-border": "var(--color-foreground-border)",
        "antsibull-deprecation-background": "var(--color-background-secondary)",
        "antsibull-deprecation-color": "var(--color-foreground-primary)",
    },
    "dark_css_variables": {
        "antsibull-option-type": "#d9a3f0",
        "antsibull-option-elements": "#d9a3f0",
        "antsibull-option-required": "#ff8a8a",
        "antsibull-option-version-added": "#71d471",
        "antsibull-option-aliases": "#71d471",
        "antsibull-option-default": "#9db8ff",
        "antsibull-option-sample": "#9db8ff",
        "antsibull-attribute-support-full": "#71d471",
        "antsibull-attribute-support-partial": "#d6c34a",
        "antsibull-attribute-support-none": "#ff8a8a",
    },
}
