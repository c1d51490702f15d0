# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: each measures side by side with the alternative in one run and prints the ratio."""
