"""A Python client for Triton servers that serve PaddleClas's Inception series."""

from client.aio import AsyncInceptionClient
from client.client import InceptionClient
from client.connection import Tls
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
    QueueFull,
    RegionLost,
    ServerUnavailable,
    SomeFailed,
    TlsFailed,
    UnknownModel,
    UnreadableImage,
)
from client.results import Classification, ModelHealth, ModelStatistics, Phase, Prediction, Timings
from client.retries import RetryPolicy

__all__ = [
    "AsyncInceptionClient",
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
    "ModelStatistics",
    "NotAllowed",
    "Overloaded",
    "Phase",
    "Prediction",
    "PreprocessMismatch",
    "Preprocessing",
    "QueueFull",
    "RegionLost",
    "RetryPolicy",
    "ServerUnavailable",
    "SomeFailed",
    "Timings",
    "Tls",
    "TlsFailed",
    "UnknownModel",
    "UnreadableImage",
]
