"""Serve a model repository with a local tritonserver, and know that it really serves."""

from serving.access import Access, read_access
from serving.errors import ServingError
from serving.ports import Ports
from serving.process import ServeOptions, Server, serve

__all__ = ["Access", "Ports", "ServeOptions", "Server", "ServingError", "read_access", "serve"]
