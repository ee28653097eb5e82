# A slim image of the command line, with kernels compiled for the CPU that builds it: docs/containers.md.
FROM python:3.11-slim AS build
COPY . /src
RUN pip wheel --no-cache-dir --no-deps -w /wheels /src

FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl
ENV NANOINFER_CACHE_DIR=/opt/kernels
RUN nanoinfer warmup digits mobilenetv3_small_100
USER 10001:10001
ENTRYPOINT ["nanoinfer"]
CMD ["doctor"]
