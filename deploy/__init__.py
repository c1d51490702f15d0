# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests for installing without Ansible, made from the collection's own objects."""
