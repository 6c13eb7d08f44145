"""Tokens, where the server asks for them: a small realm of the test's own says with which key they are signed."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from esp_medsam_monai.label import MODEL_NAME
from tests.label.label_server import ANSWER_LIMIT, Server

ROLES = ["monailabel-user", "monailabel-annotator"]


class Realm(ThreadingHTTPServer):
    """Gives out a public key as Keycloak does, once it is let; before that it takes requests and says nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.asked, self.speaks = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/realms/test"

    @property
    def answer(self) -> dict[str, str]:
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return {"realm": "test", "public_key": base64.b64encode(self.key.public_key().public_bytes(*form)).decode()}

    def token(self, key: Any = None, algorithm: str = "RS256", seconds: int = 600, **claims: Any) -> str:
        content = {
            "preferred_username": "reader",
            "exp": int(time.time()) + seconds,
            "realm_access": {"roles": ROLES},
            **claims,
        }
        return jwt.encode(content, self.key if key is None else key, algorithm=algorithm)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        realm: Any = self.server
        realm.asked.set()
        realm.speaks.wait()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(realm.answer).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    server = Realm()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.speaks.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def guarded(realm: Realm, small_bundle: Path, volume_file: Path, tmp_path_factory) -> Iterator[Server]:
    """A server that asks for tokens of the realm, over one volume."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "studies").mkdir()
    for file in (volume_file, volume_file.with_name("volume.json")):
        (folder / "studies" / file.name).write_bytes(file.read_bytes())
    environment = {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": realm.url,
        "MONAI_LABEL_AUTH_TIMEOUT": "8",
    }
    server = Server(folder / "studies", folder / "app", ["--bundle", str(small_bundle)], environment)
    try:
        yield server.wait(accept=(401,))
    finally:
        server.stop()


def ask(server: Server, token: str | None, method: str = "GET", path: str = "/info/") -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return requests.request(method, server.url + path, headers=headers, timeout=ANSWER_LIMIT)


def refused(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    return str(answer.json()["detail"])


def test_a_realm_that_says_nothing_is_named_and_costs_nobody_else(realm, guarded):
    """First of this file: once the realm has given its key, it is not asked again."""
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(ask, guarded, realm.token())
        assert realm.asked.wait(ANSWER_LIMIT)
        assert ask(guarded, None, path="/auth/").json()["enabled"] is True
        assert not waiting.done()
        told = refused(waiting.result(), 503)
    assert told.startswith("NO_REALM: ")
    assert realm.url in told


def test_a_right_token_is_served(realm, guarded):
    realm.speaks.set()
    assert MODEL_NAME in ask(guarded, realm.token()).json()["models"]
    answer = ask(guarded, realm.token(), "POST", f"/infer/{MODEL_NAME}?image=volume&output=image")
    assert answer.status_code == 200, answer.text


def test_no_token_is_refused(realm, guarded):
    assert refused(ask(guarded, None), 401)
    assert refused(ask(guarded, None, "POST", f"/infer/{MODEL_NAME}?image=volume"), 401)


def test_wrong_tokens_are_refused(realm, guarded):
    realm.speaks.set()
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    wrong = {
        "of another key": realm.token(stranger),
        "no token": "abc",
        "expired": realm.token(seconds=-600),
        "unsigned": realm.token("", "none"),
        # A public key is no secret: whoever has it could sign with it.
        "signed with the public key": realm.token(realm.answer["public_key"], "HS256"),
        "without a name": realm.token(preferred_username=None),
    }
    for what, token in wrong.items():
        assert "NO_ACCESS" in refused(ask(guarded, token), 401), what


def test_a_token_without_the_role_is_refused(realm, guarded):
    realm.speaks.set()
    for roles in ({}, {"roles": []}, {"roles": ["somebody"]}, None):
        assert "monailabel-user" in refused(ask(guarded, realm.token(realm_access=roles)), 403)
    answer = ask(guarded, realm.token(), "DELETE", "/datastore/image?id=volume")
    assert "monailabel-admin" in refused(answer, 403)
