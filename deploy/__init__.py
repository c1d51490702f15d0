# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests for those who install by hand or with other tools; all of them are generated, see ``__main__``."""
