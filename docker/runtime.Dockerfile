# The light install: predicts, benches, scores and checks, without PyTorch.
#   docker build -f docker/runtime.Dockerfile -t posedistill .
#   docker run --rm -v "$PWD:/work" posedistill predict linemod_cat photo.jpg
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir /source && rm -r /source
WORKDIR /work
ENTRYPOINT ["posedistill"]
