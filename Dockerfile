# syntax=docker/dockerfile:1
# The oldest that pyproject.toml promises, which is what the tests run on.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/vm-consistency
COPY requirements.txt ./
# The lock is complete, so nothing is resolved. Wheels only: what needs a compiler fails here instead of finding one.
RUN python -m pip --disable-pip-version-check --no-cache-dir --python /opt/vm-consistency/bin/python \
    install --no-compile --no-deps --require-hashes --only-binary :all: -r requirements.txt \
 && python -m pip --disable-pip-version-check --python /opt/vm-consistency/bin/python check
COPY LICENSE ./
COPY app app
# Copied, not built: a build backend would come with dependencies that nothing here locks.
RUN cp LICENSE /opt/vm-consistency/ \
 && cp -R app /opt/vm-consistency/lib/python3*/site-packages/ \
 && printf '%s\n' '#!/opt/vm-consistency/bin/python' 'from app.cli.main import main' 'main()' > /opt/vm-consistency/bin/vm-consistency \
 && chmod 755 /opt/vm-consistency/bin/vm-consistency
# By hash and unchecked, so that no later change of a file's time makes it compile at start-up again.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/vm-consistency/lib

FROM python:${PYTHON}-slim
# The base image has no bytecode for the standard library, and a container could not keep what it compiles.
RUN python -m pip uninstall --yes pip \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
COPY --from=build /opt/vm-consistency /opt/vm-consistency
ENV PATH=/opt/vm-consistency/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title=vm-consistency org.opencontainers.image.licenses=Apache-2.0
# A number, because kubelet can't tell from a name that a user is not root.
USER 65532:65532
EXPOSE 8443 8080
ENTRYPOINT ["vm-consistency"]
CMD ["serve"]
