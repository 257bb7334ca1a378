"""The whole way in one run: weights -> model folders -> a real tritonserver -> top-5 answers for three photographs.

Run by `make demo`. With network it uses PaddleClas's official weights; without, it says so and uses seeded ones.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from builder import MODELS
from builder.build import BuildOptions, build
from builder.errors import BuilderError, WeightsUnavailable
from builder.progress import Progress
from builder.targets import CPU
from client import Classification, InceptionClient, InceptionError
from serving import ServingError, serve

NAMES = ("GoogLeNet", "InceptionV3")
PHOTOS = tuple(sorted((Path(__file__).parent / "photos").glob("*.jpg")))
REPOSITORY = Path("demo_repository")

UNTRAINED = """
================================================================================
  THE OFFICIAL WEIGHTS COULD NOT BE FETCHED: THESE MODELS ARE NOT TRAINED.
  Their weights are seeded, so every label below is MEANINGLESS. Everything else
  is real: the networks, the ONNX files and their checks, the server, the client.
  {reason}
================================================================================
"""


def main() -> int:
    """Build, serve, classify, stop; returns the exit code."""
    try:
        started = time.perf_counter()
        is_trained = build_models()
        built_s = time.perf_counter() - started
        classify_photos(built_s, is_trained)
    except (BuilderError, ServingError, InceptionError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def build_models() -> bool:
    """Publish both models to `demo_repository`; returns whether their weights are the official ones."""
    try:
        build(_options("pretrained"), Progress())
    except WeightsUnavailable as error:
        print(UNTRAINED.format(reason=error), flush=True)
        build(_options("seeded"), Progress())
        return False
    return True


def _options(weights: str) -> BuildOptions:
    specs = tuple(MODELS[name] for name in NAMES)
    return BuildOptions(specs=specs, target=CPU, precisions=CPU.precisions, repository=REPOSITORY, weights=weights)


def classify_photos(built_s: float, is_trained: bool) -> None:
    """Serve `demo_repository`, classify every photograph with every model, and say how long each stage took."""
    started = time.perf_counter()
    with serve(REPOSITORY, ports="auto") as server:
        ready_s = time.perf_counter() - started
        print(f"\ntritonserver (pid {server.pid}) serves {', '.join(NAMES)} at {server.grpc_url}\n")
        started = time.perf_counter()
        with InceptionClient(server.grpc_url, token=server.token) as client:
            for photo in PHOTOS:
                for name in NAMES:
                    _show(photo, client.classify(photo, model=name, top_k=5))
        classified_s = time.perf_counter() - started
        started = time.perf_counter()
    stopped_s = time.perf_counter() - started
    print(f"build {built_s:.1f} s, server ready {ready_s:.1f} s, {len(PHOTOS) * len(NAMES)} classifications ", end="")
    print(f"{classified_s:.2f} s, server stopped {stopped_s:.1f} s")
    if not is_trained:
        print("The labels above mean nothing: the weights are seeded, not trained.")


def _show(photo: Path, answer: Classification) -> None:
    times = f"preprocess {answer.timings.preprocess_ms:.1f} ms, inference {answer.timings.inference_ms:.1f} ms"
    print(f"{photo.name}  {answer.served_name} version {answer.version} release {answer.release}  ({times})")
    for prediction in answer.predictions:
        print(f"  {prediction.score:8.4f}  {prediction.label}")


if __name__ == "__main__":
    sys.exit(main())
