# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the bytecode of every module that the controller loads; run while its image is built.

The image's root is read-only, and base images often ship the standard library without bytecode: then every start would
compile it again, which takes seconds at a CPU limit of 200m. The bytecode doesn't depend on the time of its source
(unchecked-hash), because image builders rewrite file times.
"""

import importlib
import pkgutil
import py_compile
import sys

import controller

LIBRARIES = ("kubernetes.config", "kubernetes.dynamic")


def main() -> None:
    """Import the controller and compile all that this loads, in an order that never changes."""
    for name in (*LIBRARIES, *(module.name for module in pkgutil.iter_modules(controller.__path__, "controller."))):
        importlib.import_module(name)
    sources = {str(module.__file__) for module in sys.modules.values() if getattr(module, "__file__", None)}
    for source in sorted(sources):
        if source.endswith(".py"):
            py_compile.compile(source, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
