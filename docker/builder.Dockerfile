# Builds TensorRT plans; docker-compose.yml says for which GPU. Never built or run: no Docker engine was at hand.
ARG BASE_IMAGE=nvcr.io/nvidia/tensorrt:26.08-py3
FROM ${BASE_IMAGE}

# In a folder of their own, before the image's packages: those stay as NVIDIA shipped them, and neither the image's own
# constraints nor Debian's "externally managed" mark is in the way.
ARG CONSTRAINTS=docker/constraints-26.08.txt
COPY ${CONSTRAINTS} /opt/inception/constraints.txt
RUN env -u PIP_CONSTRAINT python3 -m pip install --no-cache-dir --no-deps --only-binary=:all: \
    --target /opt/inception/packages --requirement /opt/inception/constraints.txt
ENV PYTHONPATH=/opt/inception/packages \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# The plan stage is all of the builder that runs here, and it needs no torch.
WORKDIR /opt/inception
COPY builder builder
# Readable also when this checkout is its owner's alone; what is missing shows here rather than on the GPU's time.
RUN chmod -R a+rX /opt/inception && \
    python3 -m builder --help >/dev/null && python3 -c "import numpy, polygraphy, rich"

USER 1000:1000
# Instead of NVIDIA's entry point: that prints banners and prepares the CUDA compatibility library, which takes root and
# a writable image, for drivers older than those that builder/targets.py asks for.
ENTRYPOINT ["python3", "-m", "builder"]
CMD ["--help"]
