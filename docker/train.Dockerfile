# Everything: rendering, training, distillation, export.
#   docker build -f docker/train.Dockerfile -t posedistill:train .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" posedistill:train run quickstart
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir "/source[train,imagenet]" && rm -r /source
WORKDIR /work
ENTRYPOINT ["posedistill"]
