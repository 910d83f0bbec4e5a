"""`ts` as TorchServe's handlers know it, for workers of jitney: the modules that handlers import, with their behaviour.

`backends/handler.py` puts the folder above on `sys.path`, so that `from ts.torch_handler.base_handler import BaseHandler`
finds this package, also where torchserve itself is installed.
"""

from . import not_offered, version
from .version import __version__

__all__ = ["__version__", "version"]

not_offered.refuse(__name__)
