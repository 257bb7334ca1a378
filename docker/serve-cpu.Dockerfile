# Triton and the CPU runtime, for hosts without a GPU. Never built or run: no Docker engine was at hand.
FROM nvcr.io/nvidia/tritonserver:26.08-py3

# The Python backend embeds Python and takes the packages of the first `python3` on PATH, whatever PYTHONPATH says (so it
# was with 24.10): hence a virtual environment. Without a pip of its own, for which Ubuntu would want another package.
COPY docker/constraints-serve-cpu.txt /opt/inception/constraints.txt
RUN python3 -m venv --without-pip /opt/inception/venv && \
    env -u PIP_CONSTRAINT python3 -m pip --python /opt/inception/venv/bin/python install --no-cache-dir --no-deps \
    --only-binary=:all: --requirement /opt/inception/constraints.txt
ENV PATH=/opt/inception/venv/bin:$PATH
RUN python3 -c "import numpy, openvino; openvino.Core()"

# The image's `triton-server`.
USER 1000:1000
