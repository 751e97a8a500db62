# A machine that has Python and this project; data and runs are mounted from outside.
#
#   docker build --tag cxr .                         # CPU
#   docker build --tag cxr --build-arg EXTRA=gpu .   # CUDA comes as wheels; the host has the driver
#   docker run --rm --gpus=all --volume "$PWD:/work" cxr cxr-train --data=tfrecords --run_dir=runs/first
FROM python:3.12-slim-bookworm
ARG EXTRA=""

WORKDIR /opt/cxr
COPY setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY docs/package.md docs/
COPY cxr_data cxr_data
COPY cxr_train cxr_train
# The pins are in setup.cfg. Not root: what a run writes in the mounted folder belongs to a user.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}" \
 && useradd --create-home --uid 1000 cxr
USER 1000
WORKDIR /work
CMD ["cxr-train", "--help"]
