# locust with this project's users, and NVIDIA's perf_analyzer. Never built or run: no Docker engine was at hand.
FROM nvcr.io/nvidia/tritonserver:26.08-py3-sdk

COPY docker/constraints-loadtest.txt /opt/inception/constraints.txt
RUN env -u PIP_CONSTRAINT python3 -m pip install --no-cache-dir --no-deps --only-binary=:all: \
    --target /opt/inception/packages --requirement /opt/inception/constraints.txt
ENV PYTHONPATH=/opt/inception/packages:/opt/inception \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/inception
COPY client client
COPY loadtest loadtest
COPY examples/photos examples/photos
RUN chmod -R a+rX /opt/inception && python3 -m locust -f loadtest/locustfile.py --list

USER 1000:1000
# None: `docker compose run loadtest perf_analyzer ...` runs that.
ENTRYPOINT []
CMD ["python3", "-m", "locust", "-f", "loadtest/locustfile.py"]
