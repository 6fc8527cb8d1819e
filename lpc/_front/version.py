"""The version of the library that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("latent-point-collapse")
except PackageNotFoundError:  # a checkout or an unpacked wheel on sys.path
    __version__ = "0+unknown"
