# The image of `bnlstm-deploy serve`, which `bnlstm-deploy deploy kserve` names:
#   docker build --tag REGISTRY/bnlstm-deploy .
# For GPUs: docker build --build-arg PROVIDER=gpu --tag REGISTRY/bnlstm-deploy:gpu .
FROM python:3.11-slim
ARG PROVIDER=cpu
COPY . /src
RUN pip install --no-cache-dir "/src[$PROVIDER,serve]" && rm -rf /src ~/.cache
USER 1000
EXPOSE 8080 8081
ENTRYPOINT ["bnlstm-deploy"]
