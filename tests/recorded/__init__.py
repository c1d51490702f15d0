# SPDX-License-Identifier: GPL-3.0-or-later
"""What real nodes said, one JSON file for each case, written by `python -m tests.recorded.record`."""
