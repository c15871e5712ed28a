"""Free text from other programs with secrets in every form that they write them, and the words that are none."""

from __future__ import annotations

import time

import pytest

from icekeeper.core.secrets import hide_in_text

SECRET = "h8.Gx-unter2"


@pytest.mark.parametrize(
    "text",
    [
        "password=h8.Gx-unter2",
        "password = h8.Gx-unter2 and more",
        "jdbc:postgresql://h/d?user=a&password=h8.Gx-unter2&ssl=true",
        "postgresql://icekeeper:h8.Gx-unter2@postgres/icekeeper",
        'rejected {"user": "a", "password": "h8.Gx-unter2", "port": 1}',
        'rejected {"user":"a","password":"h8.Gx-unter2"}',
        'rejected {"password": "h8.Gx-unter2 with \\" and words"}',
        "rejected {'password': 'h8.Gx-unter2'}",
        r'body: "{\"s3.secret-access-key\": \"h8.Gx-unter2\", \"x\": 1}"',
        r'body: "{\\\"token\\\": \\\"h8.Gx-unter2\\\"}"',
        '{"client_secret": ["h8.Gx-unter2", "another"]}',
        "s3.secret-access-key: h8.Gx-unter2",
        's3.secret-access-key: "h8.Gx-unter2"',
        "  password: 'with words h8.Gx-unter2'",
        "https://acc.blob.core.windows.net/c/f?sv=2024-11-04&sp=r&sig=h8.Gx-unter2",
        "https://acc.blob.core.windows.net/c/f?sig=h8.Gx-unter2&se=2026",
        "sig%3Dh8.Gx-unter2%26se%3D2026",
        '{"sig": "h8.Gx-unter2"}',
        "SharedAccessSignature=sv=2024&sig=h8.Gx-unter2",
        "AccountName=a;AccountKey=h8.Gx-unter2==;EndpointSuffix=core.windows.net",
        "https://s3/b/k?X-Amz-Credential=AKIA%2F20260218&X-Amz-Signature=h8.Gx-unter2",
        "https://s3/b/k?X-Amz-Security-Token=h8.Gx-unter2&X-Amz-Expires=60",
        "https://storage.googleapis.com/b/k?GoogleAccessId=x&Signature=h8.Gx-unter2",
        "Authorization: Bearer h8.Gx-unter2",
        "Authorization: Basic h8.Gx-unter2==",
        'headers={"Authorization": "Bearer h8.Gx-unter2"}',
        "headers {Authorization=[Bearer h8.Gx-unter2], Accept=[*/*]}",
        "sent Bearer abcdefgh8.Gx-unter2 to the catalog",
        "X-Api-Key: h8.Gx-unter2",
        "-----BEGIN RSA PRIVATE KEY-----\nh8.Gx-unter2\nabc\n-----END RSA PRIVATE KEY-----",
        'config "private_key": "-----BEGIN PRIVATE KEY-----\\nh8.Gx-unter2\\n-----END PRIVATE KEY-----\\n"',
        "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.h8Gx-unter2".replace("h8Gx", "h8_Gx"),
        "InvalidToken=h8.Gx-unter2",
        'ExpiredToken: "h8.Gx-unter2"',
        "invalid_token: h8.Gx-unter2",
        "Wrong password: h8.Gx-unter2",
        "token_file_content=h8.Gx-unter2",
        "password: the password=h8.Gx-unter2",
    ],
)
def test_a_secret_is_hidden_in_whatever_form_it_is_written(text: str) -> None:
    hidden = hide_in_text(text)
    assert "unter2" not in hidden
    assert "***" in hidden
    assert hide_in_text(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "ExpiredTokenException: The security token included in the request is expired",
        "software.amazon.awssdk.services.sts.model.ExpiredTokenException: The token has expired",
        "SignatureDoesNotMatch: The request signature we calculated does not match",
        "InvalidAccessKeyId: The AWS Access Key Id you provided does not exist in our records",
        "InvalidToken: The provided token is malformed",
        "java.lang.SecretManagerError: no such secret",
        "signal=15 design=a signed=true assigned: x",
        "Basic authentication failed",
        "ExpiredTokenException: The...",
        "NotAuthorizedException: Not authorized: invalid_token: The access token expired",
        "token: The access token is expired",
        "Wrong password: try again",
        "TokenExpired: Token has been revoked",
        "The Authorization: header is malformed",
        "password=null, token=none; private: true",
        "token-refresh-enabled=true token-expires-in-ms=3600000 token_type=bearer",
        "postgres.password_file: /run/secrets/postgres can't be read",
        "client.credentials-provider=com.example.Provider",
        "AwsCredentialsProviderChain(credentialsProviders=[SystemPropertyCredentialsProvider(), Other()])",
        "no password was given, and the token is missing",
        'Query id: 3, tables: 10, {"rows": 5}',
    ],
)
def test_words_that_are_no_secrets_are_left(text: str) -> None:
    assert hide_in_text(text) == text


def test_what_stands_beside_a_secret_is_left() -> None:
    text = 'PUT /v1 {"user": "ann", "password": "x y", "port": 5432} 401, password=z&ssl=true; retry'
    assert (
        hide_in_text(text)
        == 'PUT /v1 {"user": "ann", "password": "***", "port": 5432} 401, password=***&ssl=true; retry'
    )


@pytest.mark.parametrize("text", ["token" * 40_000, '"' * 100_000, "a" * 200_000, "token=" * 20_000, "\\" * 100_000])
def test_a_long_text_takes_no_time(text: str) -> None:
    began = time.process_time()
    hide_in_text(text)
    assert time.process_time() - began < 2
