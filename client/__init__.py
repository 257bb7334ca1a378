"""A Python client for Triton servers that serve PaddleClas's Inception series."""

from client.client import InceptionClient
from client.contract import ModelContract, Preprocessing
from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidImage,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    PreprocessMismatch,
    ServerUnavailable,
    UnknownModel,
)
from client.results import Classification, ModelHealth, Prediction

__all__ = [
    "BadResponse",
    "Classification",
    "ClientClosed",
    "DeadlineExceeded",
    "InceptionClient",
    "InceptionError",
    "InferenceFailed",
    "InvalidImage",
    "InvalidRequest",
    "ModelContract",
    "ModelHealth",
    "NotAllowed",
    "Overloaded",
    "Prediction",
    "PreprocessMismatch",
    "Preprocessing",
    "ServerUnavailable",
    "UnknownModel",
]
