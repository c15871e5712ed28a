#!/bin/sh
# Run once by the postgres image on an empty data directory (compose.yaml): the Iceberg catalog's role and database.
set -eu
psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" \
  --set=password="$(cat /run/secrets/iceberg-catalog-password)" <<'SQL'
CREATE ROLE icekeeper_catalog LOGIN PASSWORD :'password';
CREATE DATABASE iceberg OWNER icekeeper_catalog;
SQL
