# A slim image of the command line, with compiled kernels for every CPU and no compiler: docs/containers.md.
FROM python:3.11-slim AS build
COPY . /src
RUN pip wheel --no-cache-dir --no-deps -w /wheels /src

FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl
RUN pip install --no-cache-dir numpy safetensors pillow rich
USER 10001:10001
ENTRYPOINT ["nanoinfer"]
CMD ["doctor"]
