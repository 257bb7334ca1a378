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
    ServerUnavailable,
    SomeFailed,
    TlsFailed,
    UnknownModel,
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
    "RetryPolicy",
    "ServerUnavailable",
    "SomeFailed",
    "Timings",
    "Tls",
    "TlsFailed",
    "UnknownModel",
]
