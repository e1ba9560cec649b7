# The image of `bnlstm-deploy serve`, which `bnlstm-deploy deploy kserve` names:
#   docker build --tag REGISTRY/bnlstm-deploy .
#   docker run --publish 8080:8080 --volume ./models:/models:ro REGISTRY/bnlstm-deploy
# For GPUs: docker build --build-arg PROVIDER=gpu --tag REGISTRY/bnlstm-deploy:gpu .
FROM python:3.11-slim AS build
ARG PROVIDER=cpu
COPY . /src
RUN python -m venv /opt/bnlstm \
    && /opt/bnlstm/bin/pip install --no-cache-dir --no-compile --constraint /src/constraints.txt \
        "/src[$PROVIDER,serve]" \
    && /opt/bnlstm/bin/pip uninstall --yes --quiet pip setuptools

FROM python:3.11-slim
COPY --from=build /opt/bnlstm /opt/bnlstm
ENV PATH=/opt/bnlstm/bin:$PATH
USER 1000
EXPOSE 8080 8081
HEALTHCHECK --start-period=30s --interval=10s --timeout=3s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["bnlstm-deploy"]
CMD ["serve", "--host", "0.0.0.0", "/models"]
